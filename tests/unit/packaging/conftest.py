"""A folder of wheels made on the spot, as the only place where packages are found: no test here needs a network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from packages import make_wheel


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder; what the machine's own pip and uv are told does not count."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    folder = tmp_path / "wheels of mine"
    folder.mkdir()
    configuration = tmp_path / "pip.conf"
    configuration.write_text(f"[global]\nno-index = true\nfind-links = {folder.as_uri()}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv cache"))
    make_wheel(folder, "apple", "1.0")
    make_wheel(folder, "apple", "2.0", "pear>=1")
    make_wheel(folder, "pear", "1.5+cpu")
    return folder
