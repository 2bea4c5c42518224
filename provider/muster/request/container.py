"""Container options of a request: mounts, shared memory, arguments of ``docker run``."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from muster.core.errors import RequestError
from muster.core.job import Mount
from muster.request import coerce

MOUNT_FIELDS = ("source", "target", "read_only")
_MODES = {"ro": True, "rw": False}
_FORM = 'give "/source:/target", "/source:/target:rw", or {"source": …, "target": …, "read_only": …}'


def mounts(value: Any) -> tuple[Mount, ...]:
    """Parse mounts from a list of texts or mappings.

    :raises RequestError: one is not of these forms, a path is not absolute, or a target is there twice.
    """
    if not isinstance(value, (list, tuple)):
        raise RequestError(f"mounts must be a list, got {value!r}; {_FORM}")
    found = tuple(_mount(f"mounts[{index}]", item) for index, item in enumerate(value))
    targets = [mount.target for mount in found]
    for index, target in enumerate(targets):
        if target in targets[:index]:
            raise RequestError(f"mounts[{index}] has the target {target!r} of another; give each its own")
    return found


def shm_size(value: Any) -> int:
    """Return the size of shared memory in bytes.

    :raises RequestError: it is no size, or 0.
    """
    size = coerce.size("shm_size", value)
    if size == 0:
        raise RequestError(f'shm_size must be more than 0, got {value!r}; give for example "2g"')
    return size


def _mount(name: str, value: Any) -> Mount:
    source, target, read_only = _fields(name, value) if isinstance(value, Mapping) else _parts(name, value)
    paths = [_path(f"{name}'s {what}", path) for what, path in (("source", source), ("target", target))]
    if paths[1] == "/":
        raise RequestError(f"{name}'s target can't be the root folder, got {value!r}; give a folder below it")
    return Mount(source=paths[0], target=paths[1], read_only=read_only)


def _fields(name: str, value: Mapping[str, Any]) -> tuple[Any, Any, bool]:
    unknown = sorted(set(map(str, value)) - set(MOUNT_FIELDS))
    if unknown or not value.get("source") or not value.get("target"):
        raise RequestError(f"{name} has {unknown[0]!r}; {_FORM}" if unknown else f"{name} is {dict(value)!r}; {_FORM}")
    return value["source"], value["target"], coerce.flag(f"{name}['read_only']", value.get("read_only", True))


def _parts(name: str, value: Any) -> tuple[str, str, bool]:
    parts = coerce.line(name, value).split(":")
    if len(parts) == 2:
        return parts[0], parts[1], True
    if len(parts) != 3 or parts[2] not in _MODES:
        raise RequestError(f"{name} is {value!r}; {_FORM}")
    return parts[0], parts[1], _MODES[parts[2]]


def _path(name: str, value: Any) -> str:
    path = coerce.line(name, value)
    if not path.startswith("/"):
        raise RequestError(f"{name} must be an absolute path, got {path!r}; a node has no working folder to resolve it from")
    return posixpath.normpath("/" + path.lstrip("/"))
