"""A folder of wheels made on the spot, as the only place where packages are found: no test here needs a network."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

Wheel = Callable[..., Path]


def make_wheel(folder: Path, name: str, version: str, *requires: str) -> Path:
    """Make a wheel of one module that says its version."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = "".join(
        [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", *(f"Requires-Dist: {r}\n" for r in requires)]
    )
    contents = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*contents, f"{info}/RECORD"])
    with zipfile.ZipFile(file, "w") as packed:
        for path, content in {**contents, f"{info}/RECORD": record}.items():
            packed.writestr(path, content)
    return file


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder; what the machine's own pip and uv are told does not count."""
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
