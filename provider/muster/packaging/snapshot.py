"""Snapshot: a source folder as one archive named by content; the same tree gives the same digest, and is packed once."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from muster.core.errors import RequestError

if TYPE_CHECKING:
    import pathspec

IGNORE_FILES = (".amlignore", ".gitignore")  # the first that is there counts
ALWAYS_LEFT_OUT = frozenset({".git", "__pycache__", ".muster"})
# what runs write: on every node these folders start empty, or with the checkpoints that are put in place
RUN_FOLDERS = frozenset({"outputs", "logs", "checkpoints"})
READ_SIZE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A packed source folder: its digest, the archive's path, number of files and their size in bytes."""

    digest: str
    archive: Path
    files: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file or link of a tree; ``content`` is the sha256 of a file, or where a link points."""

    path: str
    executable: bool
    link: bool
    content: str
    size: int


def take(source: Path, cache: Path) -> Snapshot:
    """Pack a folder, unless an archive of the same content is cached.

    :raises RequestError: a file can't be read, or is none (a socket, a pipe), or a link leads out of the folder.
    """
    cache.mkdir(parents=True, exist_ok=True)
    known = StatCache(cache / "stat" / f"{hashlib.sha256(os.fsencode(source)).hexdigest()[:32]}.json")
    entries = [_entry(source, path, known) for path in sorted(_paths(source))]
    known.save()
    digest = _digest(entries)
    archive = cache / f"{digest.removeprefix('sha256:')}.tar.gz"
    if not archive.exists():
        _pack(source, entries, archive)
    return Snapshot(digest=digest, archive=archive, files=len(entries), size=sum(entry.size for entry in entries))


def unpack(archive: Path, into: Path) -> None:
    """Put an archive's files into a folder."""
    with tarfile.open(archive, "r:gz") as tar:
        tar.extractall(into, filter="tar")


class StatCache:
    """Digests of files by size, mtime and inode, so that an unchanged file is not read again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._old: dict[str, list[object]] = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            self._old = {}
        self._new: dict[str, list[object]] = {}

    def digest(self, file: Path, name: str, status: os.stat_result) -> str:
        """Give the sha256 of a file."""
        key: list[object] = [status.st_size, status.st_mtime_ns, status.st_ino]
        old = self._old.get(name)
        content = str(old[3]) if old is not None and old[:3] == key else _sha256(file)
        self._new[name] = [*key, content]
        return content

    def save(self) -> None:
        """Keep what was seen, if it is news."""
        if self._new == self._old:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False, encoding="utf-8") as file:
            json.dump(self._new, file)
        os.replace(file.name, self._path)


def _paths(source: Path) -> Iterator[str]:
    """Give the kept paths, relative to the source, with ``/``."""
    ignored = _ignore_rules(source)
    for folder, folders, files in os.walk(source, onerror=_refuse_unreadable):
        base = os.path.relpath(folder, source)
        prefix = "" if base == "." else f"{base}/"
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = [
            name
            for name in folders
            if name not in links and not _left_out(prefix, name) and not _matches(ignored, f"{prefix}{name}/")
        ]
        yield from (
            prefix + name for name in [*files, *links] if name not in ALWAYS_LEFT_OUT and not _matches(ignored, prefix + name)
        )


def _left_out(prefix: str, name: str) -> bool:
    return name in ALWAYS_LEFT_OUT or (not prefix and name in RUN_FOLDERS)


def _ignore_rules(source: Path) -> pathspec.GitIgnoreSpec | None:
    for name in IGNORE_FILES:
        file = source / name
        if file.is_file():
            import pathspec

            return pathspec.GitIgnoreSpec.from_lines(file.read_text(encoding="utf-8").splitlines())
    return None


def _matches(rules: pathspec.GitIgnoreSpec | None, path: str) -> bool:
    return rules is not None and rules.match_file(path)


def _refuse_unreadable(error: OSError) -> None:
    raise RequestError(
        f"source_directory: {error.filename!r} can't be read ({error.strerror}); mend it, or name it in .amlignore"
    )


def _entry(source: Path, path: str, known: StatCache) -> Entry:
    file = source / path
    try:
        status = file.lstat()
        if stat.S_ISLNK(status.st_mode):
            return Entry(path=path, executable=False, link=True, content=_link(source, file), size=0)
        if not stat.S_ISREG(status.st_mode):
            raise RequestError(f"source_directory: {str(file)!r} is no regular file; remove it, or name it in .amlignore")
        content = known.digest(file, path, status)
    except OSError as error:
        _refuse_unreadable(error)
        raise
    executable = bool(status.st_mode & stat.S_IXUSR)
    return Entry(path=path, executable=executable, link=False, content=content, size=status.st_size)


def _link(source: Path, file: Path) -> str:
    target = os.readlink(file)
    end = (file.parent / target).resolve()
    if os.path.isabs(target) or not end.is_relative_to(source.resolve()):
        raise RequestError(
            f"source_directory: link {str(file)!r} leads out of it, to {target!r}; copy what it needs into the folder"
        )
    return target


def _sha256(file: Path) -> str:
    seal = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(READ_SIZE):
            seal.update(piece)
    return seal.hexdigest()


def _digest(entries: list[Entry]) -> str:
    seal = hashlib.sha256()
    for entry in entries:
        row = [entry.path, entry.executable, entry.link, entry.content]
        seal.update(json.dumps(row, ensure_ascii=True).encode() + b"\n")
    return f"sha256:{seal.hexdigest()}"


def _pack(source: Path, entries: list[Entry], archive: Path) -> None:
    """Write the archive beside its place and rename it, so that nobody meets half of one."""
    descriptor, scratch = tempfile.mkstemp(dir=archive.parent, prefix=".new-")
    with (
        os.fdopen(descriptor, "wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for entry in entries:
            _add(tar, source, entry)
    os.replace(scratch, archive)


def _add(tar: tarfile.TarFile, source: Path, entry: Entry) -> None:
    info = tarfile.TarInfo(entry.path)
    info.mode = 0o755 if entry.executable else 0o644
    if entry.link:
        info.type, info.linkname = tarfile.SYMTYPE, entry.content
        tar.addfile(info)
        return
    info.size = entry.size
    with (source / entry.path).open("rb") as stream:
        tar.addfile(info, stream)
