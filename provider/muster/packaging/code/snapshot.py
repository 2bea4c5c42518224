"""Snapshot: a source folder as a digest and a packed archive; same tree, same digest."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from muster.core.errors import RequestError
from muster.packaging.code.ignore import IgnoreRules
from muster.packaging.code.tree import FILE, LINK, Entry, Hashes, SourceChanged, walk

if TYPE_CHECKING:
    import tarfile

SNAPSHOT_VERSION = 1
ATTEMPTS = 3

_TIME = 315_532_800  # of every file in an archive: 1980, the earliest that zip files made of them can hold


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """``digest`` is ``sha256:…`` of paths, contents and executable bits; ``archive`` a .tar.gz; ``size`` bytes unpacked."""

    digest: str
    archive: Path
    files: int
    size: int


def pack(source: Path, cache: Path) -> Snapshot:
    """Pack a folder; unchanged files are not read again, an existing archive is not written again.

    Left out are what ``.amlignore`` (else ``.gitignore``) at the root names, ``.git``, ``__pycache__``, ``outputs``, ``logs``
    and ``checkpoints`` at the root, and Muster's own folder: the one that ``cache`` is in.

    :raises RequestError: there is no such folder, an entry can't be read or can't travel, or files change all the time.
    """
    if not source.is_dir():
        raise RequestError(f"source_directory {str(source)!r} is {'no folder' if source.exists() else 'not there'}; correct it")
    changed = ""
    for _ in range(ATTEMPTS):
        try:
            return _pack_once(source, cache)
        except SourceChanged as change:
            changed = str(change)
    raise RequestError(f"{changed!r} changes while it is being packed; stop what writes it, or name it in .amlignore")


def _pack_once(source: Path, cache: Path) -> Snapshot:
    rules, hashes = IgnoreRules.read(source), Hashes()
    memory = cache / "seen" / f"{hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:32]}.json"
    remembered = _load_memory(memory, rules, hashes)
    entries = walk(source, rules, hashes, skip=_own_folder(source, cache))
    digest = _digest(entries)
    archive = cache / f"{digest.removeprefix('sha256:')}.tar.gz"
    if not archive.exists():
        _write(archive, lambda file: _write_archive(source, entries, file))
    _save_memory(memory, rules, hashes, remembered)
    files = [entry for entry in entries if entry.kind == FILE]
    return Snapshot(digest=digest, archive=archive, files=len(files), size=sum(entry.size for entry in files))


def _own_folder(source: Path, cache: Path) -> Path:
    """Return the folder that ``cache`` is in, or ``cache`` if that folder is the source folder or contains it."""
    return cache if source.resolve().is_relative_to(cache.resolve().parent) else cache.parent


def _digest(entries: Iterable[Entry]) -> str:
    seal = hashlib.sha256(f"muster snapshot {SNAPSHOT_VERSION}\n".encode())
    for entry in entries:
        kind = "program" if entry.executable else entry.kind
        seal.update(b"\0".join((kind.encode(), os.fsencode(entry.path), os.fsencode(entry.content), b"\n")))
    return f"sha256:{seal.hexdigest()}"


def _load_memory(memory: Path, rules: IgnoreRules, hashes: Hashes) -> bytes:
    """Load the decisions and hashes of the folder's last snapshot; return the file's content, empty if it can't be read."""
    try:
        content = memory.read_bytes()
        data = json.loads(content)
        known = {path: (tuple(stamp), sha256) for path, (stamp, sha256) in data["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return b""
    hashes.known = known
    if data.get("rules") == rules.digest:
        rules.known = data.get("decided", {})
    return content


def _save_memory(memory: Path, rules: IgnoreRules, hashes: Hashes, before: bytes) -> None:
    data = {"version": 1, "rules": rules.digest, "decided": rules.decided, "files": hashes.kept}
    content = json.dumps(data, separators=(",", ":")).encode()
    if content != before:
        _write(memory, lambda file: file.write(content))


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


def _write_archive(source: Path, entries: Iterable[Entry], file: IO[bytes]) -> None:
    import gzip
    import tarfile

    with (
        gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=1, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as packed,
    ):
        for entry in entries:
            _pack_entry(source, entry, packed, tarfile.TarInfo(entry.path))


def _pack_entry(source: Path, entry: Entry, packed: tarfile.TarFile, info: tarfile.TarInfo) -> None:
    info.mtime = _TIME
    info.mode = 0o755 if entry.executable or entry.kind != FILE else 0o644
    if entry.kind == FILE:
        info.size = entry.size
        _pack_file(source / entry.path, entry, packed, info)
        return
    info.type, info.linkname = (b"2", entry.content) if entry.kind == LINK else (b"5", "")
    packed.addfile(info)


def _pack_file(path: Path, entry: Entry, packed: tarfile.TarFile, info: tarfile.TarInfo) -> None:
    try:
        with path.open("rb") as content:
            read = _Hashing(content)
            packed.addfile(info, read)
    except OSError as error:  # tarfile's error as well, for a file that has become shorter
        raise SourceChanged(str(path)) from error
    if read.seal.hexdigest() != entry.content:
        raise SourceChanged(str(path))


class _Hashing:
    """Hashes a file while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seal = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self.seal.update(piece)
        return piece
