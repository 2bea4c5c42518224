"""Places the files of all nodes under one tree of names: same content once, else the lowest node's file keeps the name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from muster.core.manifest import ManifestFile


@dataclass(frozen=True, kw_only=True)
class OutputNames:
    """``files`` of the manifest; ``orders`` by node: files whose object must be looked after; ``notes`` for people."""

    files: tuple[ManifestFile, ...]
    orders: dict[int, list[dict[str, str]]]
    notes: tuple[str, ...]


def assign_names(reported: Iterable[dict[str, Any]], others_wrote: bool = False) -> OutputNames:
    """Decide names for all reported files (path, size, sha256, key, node).

    Only paths that several nodes have need an order: their common key may hold any of the contents. With ``others_wrote``
    nodes that report nothing any more have stored files too, and every path needs one.
    """
    by_path: dict[str, list[dict[str, Any]]] = {}
    for entry in sorted(reported, key=lambda e: (e["path"], e["node"])):
        by_path.setdefault(entry["path"], []).append(entry)
    files: list[ManifestFile] = []
    orders: dict[int, list[dict[str, str]]] = {}
    notes: list[str] = []
    for path, entries in by_path.items():
        owner, rest = entries[0], _differing(entries)
        files.append(_file(owner, path, owner["key"]))
        if len(entries) > 1 or others_wrote:
            orders.setdefault(owner["node"], []).append({"path": path, "key": owner["key"]})
        for entry in rest:
            other = _beside(path, entry["node"], by_path)
            key = _rename(entry["key"], path, other)
            files.append(_file(entry, other, key, beside=path))
            orders.setdefault(entry["node"], []).append({"path": path, "key": key})
            notes.append(f"{path} differs between nodes {owner['node']} and {entry['node']}; the latter is kept as {other}")
    return OutputNames(files=tuple(sorted(files, key=lambda f: f.path)), orders=orders, notes=tuple(notes))


def _differing(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give one entry for each content that is not the owner's, the lowest node's first."""
    seen = {entries[0]["sha256"]}
    rest = []
    for entry in entries[1:]:
        if entry["sha256"] not in seen:
            seen.add(entry["sha256"])
            rest.append(entry)
    return rest


def _beside(path: str, node: int, taken: dict[str, list[dict[str, Any]]]) -> str:
    """Give ``dir/name.node1.ext`` for ``dir/name.ext``, with a number where that is taken as well."""
    pure = PurePosixPath(path)
    name = str(pure.with_name(f"{pure.stem}.node{node}{pure.suffix}"))
    number = 1
    while name in taken:
        number += 1
        name = str(pure.with_name(f"{pure.stem}.node{node}-{number}{pure.suffix}"))
    return name


def _rename(key: str, path: str, other: str) -> str:
    """Give the object's key for the other name; content-addressed keys stay."""
    return key.removesuffix(path) + other if key.endswith(path) else key


def _file(entry: dict[str, Any], path: str, key: str, beside: str = "") -> ManifestFile:
    return ManifestFile(path=path, size=entry["size"], sha256=entry["sha256"], key=key, node=entry["node"], beside=beside)
