"""The Dockerfiles that travel with Muster: each builds by hand as it does here."""

from __future__ import annotations

from pathlib import Path

import muster


def text_of(name: str) -> str:
    """Give a Dockerfile's text by the name of its folder."""
    return (folder() / name / "Dockerfile").read_text(encoding="utf-8")


def folder() -> Path:
    """Give the folder of all of them: inside the installed package, or in the working tree that it is installed from."""
    package = Path(muster.__file__).resolve().parent
    shipped = package / "docker"
    return shipped if shipped.is_dir() else package.parents[1] / "docker"
