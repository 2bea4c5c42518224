"""The Dockerfiles that are shipped with Muster, each of which can be built by hand as well."""

from __future__ import annotations

from pathlib import Path

import muster


def dockerfile_text(folder: str) -> str:
    """Return the text of a Dockerfile in docker/: of the installed package, or of its working tree."""
    package = Path(muster.__file__).resolve().parent
    shipped = package / "docker"
    docker = shipped if shipped.is_dir() else package.parents[1] / "docker"
    return (docker / folder / "Dockerfile").read_text(encoding="utf-8")
