"""Packs the node agent: the parts of this package that travel, cached on a target by the digest of their content."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import muster
from muster.node.start import LIBRARIES

TRAVELLING = ("__init__.py", "tracking.py", "core", "node", "store")
# what the sync process imports, all of it pure Python; for nodes whose own Python need not have it
SYNC_LIBRARIES = ("botocore", "urllib3", "jmespath", "dateutil", "six")
DISTRIBUTIONS = {"dateutil": "python-dateutil"}
SERVICES = frozenset({"s3", "sts"})  # sts: for nodes whose credentials are a role's
TRIMMED = ("/examples-1.json", "/__pycache__/", "/dateutil/zoneinfo/", "/urllib3/contrib/emscripten/")
TRIMMING_VERSION = 1


def agent_files() -> dict[str, bytes]:
    """Return every travelling file by its path, ``muster/`` included."""
    package = Path(muster.__file__).parent
    files: dict[str, bytes] = {}
    for name in TRAVELLING:
        part = package / name
        for path in sorted(part.rglob("*.py")) if part.is_dir() else [part]:
            files[f"muster/{path.relative_to(package)}"] = path.read_bytes()
    return files


def agent_digest(files: dict[str, bytes]) -> str:
    """Return the digest that names a packed agent."""
    seal = hashlib.sha256()
    for path, content in files.items():
        seal.update(f"{path}\0{len(content)}\0".encode())
        seal.update(content)
    return seal.hexdigest()[:16]


def library_versions() -> dict[str, bytes]:
    """Return a file with the versions of the sync libraries, to be part of a digest."""
    versions = [f"{name} {importlib.metadata.version(DISTRIBUTIONS.get(name, name))}" for name in SYNC_LIBRARIES]
    return {f"{LIBRARIES}/VERSIONS": "\n".join([f"trimmed {TRIMMING_VERSION}", *versions, ""]).encode()}


def library_files() -> dict[str, bytes]:
    """Return every file of the sync libraries by its path, ``libraries/`` included; botocore trimmed to what S3 needs."""
    files: dict[str, bytes] = {}
    for name in SYNC_LIBRARIES:
        for path, file in _files_of(name):
            if not any(part in f"/{path}" for part in TRIMMED) and _is_wanted(path):
                files[f"{LIBRARIES}/{path}"] = file.read_bytes()
    endpoints = f"{LIBRARIES}/botocore/data/endpoints.json"
    files[endpoints] = _trim_endpoints(files[endpoints])
    return {**files, **library_versions()}


def _files_of(name: str) -> Iterator[tuple[str, Path]]:
    """Yield a library's files, each with its path below the folder from which it is imported."""
    found = importlib.util.find_spec(name)
    if found is None or not found.origin:
        raise ImportError(f"{name} is not installed here, but nodes need it to reach the store")
    origin = Path(found.origin)
    if origin.name != "__init__.py":
        yield origin.name, origin
        return
    for file in sorted(origin.parent.rglob("*")):
        if file.is_file():
            yield str(file.relative_to(origin.parent.parent)), file


def _is_wanted(path: str) -> bool:
    """Return whether a file belongs to a service that Muster uses, or to none."""
    parts = path.split("/")
    return parts[:2] != ["botocore", "data"] or len(parts) == 3 or parts[2] in SERVICES


def _trim_endpoints(content: bytes) -> bytes:
    """Return the endpoints of the services that Muster uses."""
    endpoints = json.loads(content)
    for partition in endpoints["partitions"]:
        partition["services"] = {name: partition["services"][name] for name in SERVICES & set(partition["services"])}
    return json.dumps(endpoints, sort_keys=True, separators=(",", ":")).encode()


def unpack_agent(root: Path) -> Path:
    """Unpack the agent below ``root/agents``, unless it is there; return its entry, ``start.py``."""
    files = agent_files()
    home = root / "agents" / agent_digest(files)
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=home.parent, prefix=".new-"))
        for path, content in files.items():
            (scratch / path).parent.mkdir(parents=True, exist_ok=True)
            (scratch / path).write_bytes(content)
        _publish(scratch, home)
    return home / "muster" / "node" / "start.py"


def _publish(scratch: Path, home: Path) -> None:
    """Rename the finished folder, unless another process was first."""
    try:
        os.rename(scratch, home)
    except OSError:
        shutil.rmtree(scratch)
        if not home.exists():
            raise
