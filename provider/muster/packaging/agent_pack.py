"""Packs the node agent: the parts of this package that travel, cached on a target by the digest of their content."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import muster

TRAVELLING = ("__init__.py", "tracking.py", "core", "node", "store")


def agent_files() -> dict[str, bytes]:
    """Give every travelling file by its path, ``muster/`` included."""
    package = Path(muster.__file__).parent
    files: dict[str, bytes] = {}
    for name in TRAVELLING:
        part = package / name
        for path in sorted(part.rglob("*.py")) if part.is_dir() else [part]:
            files[f"muster/{path.relative_to(package)}"] = path.read_bytes()
    return files


def agent_digest(files: dict[str, bytes]) -> str:
    """Give the digest that names a packed agent."""
    seal = hashlib.sha256()
    for path, content in files.items():
        seal.update(f"{path}\0{len(content)}\0".encode())
        seal.update(content)
    return seal.hexdigest()[:16]


def unpack_agent(root: Path) -> Path:
    """Put the agent below ``root/agents`` unless it is there; gives its entry, ``start.py``."""
    files = agent_files()
    home = root / "agents" / agent_digest(files)
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=home.parent, prefix=".new-"))
        for path, content in files.items():
            (scratch / path).parent.mkdir(parents=True, exist_ok=True)
            (scratch / path).write_bytes(content)
        _settle(scratch, home)
    return home / "muster" / "node" / "start.py"


def _settle(scratch: Path, home: Path) -> None:
    """Give the finished folder its name; whoever was first wins."""
    try:
        os.rename(scratch, home)
    except OSError:
        shutil.rmtree(scratch)
        if not home.exists():
            raise
