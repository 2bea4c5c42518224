"""Assigns names to the files of all nodes in one tree: same content once, else the lowest node's file keeps the name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from muster.core.manifest import ManifestFile
from muster.node.sync_commands import OutputName


@dataclass(frozen=True, kw_only=True)
class OutputNames:
    """``files`` of the manifest; ``to_store`` by node: files that the node must store again; ``notes`` for people."""

    files: tuple[ManifestFile, ...]
    to_store: dict[int, list[OutputName]]
    notes: tuple[str, ...]


def assign_names(reported: Iterable[ManifestFile], others_wrote: bool = False) -> OutputNames:
    """Assign names to all reported files.

    Only paths that several nodes have must be stored again: their common key may hold any of the contents. With
    ``others_wrote`` lost nodes have stored files too, and every path must be.
    """
    by_path: dict[str, list[ManifestFile]] = {}
    for entry in sorted(reported, key=lambda file: (file.path, file.node)):
        by_path.setdefault(entry.path, []).append(entry)
    files: list[ManifestFile] = []
    to_store: dict[int, list[OutputName]] = {}
    notes: list[str] = []
    for path, entries in by_path.items():
        owner = entries[0]
        files.append(owner)
        if len(entries) > 1 or others_wrote:
            to_store.setdefault(owner.node, []).append(OutputName(path=path, key=owner.key))
        for entry in _differing(entries):
            other = _name_beside(path, entry.node, by_path)
            key = _renamed(entry.key, path, other)
            files.append(dataclasses.replace(entry, path=other, key=key, beside=path))
            to_store.setdefault(entry.node, []).append(OutputName(path=path, key=key))
            notes.append(f"{path} differs between nodes {owner.node} and {entry.node}; the latter is kept as {other}")
    return OutputNames(files=tuple(sorted(files, key=lambda file: file.path)), to_store=to_store, notes=tuple(notes))


def _differing(entries: list[ManifestFile]) -> list[ManifestFile]:
    """Return one entry for each content that is not the owner's, the lowest node's first."""
    seen = {entries[0].sha256}
    rest = []
    for entry in entries[1:]:
        if entry.sha256 not in seen:
            seen.add(entry.sha256)
            rest.append(entry)
    return rest


def _name_beside(path: str, node: int, taken: dict[str, list[ManifestFile]]) -> str:
    """Return ``dir/name.node1.ext`` for ``dir/name.ext``, with a number where that is taken as well."""
    pure = PurePosixPath(path)
    name = str(pure.with_name(f"{pure.stem}.node{node}{pure.suffix}"))
    number = 1
    while name in taken:
        number += 1
        name = str(pure.with_name(f"{pure.stem}.node{node}-{number}{pure.suffix}"))
    return name


def _renamed(key: str, path: str, other: str) -> str:
    """Return the object's key for the other name; content-addressed keys stay."""
    return key.removesuffix(path) + other if key.endswith(path) else key
