"""Walks a source folder: yields every entry of its snapshot, with the hash of each file's content."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from muster.core.errors import RequestError
from muster.packaging.code.ignore import IgnoreRules

FILE, FOLDER, LINK = "file", "folder", "link"

Stamp = tuple[int, int, int, int]  # size, modified, changed (both in ns), inode

# a file that was changed so shortly before it was hashed can change again without its times showing it
_TOO_FRESH = 2_000_000_000


class Entry(NamedTuple):
    """One entry; ``path`` is relative, with ``/``; ``content`` the sha256 of a file, or the target of a link."""

    path: str
    kind: str
    content: str = ""
    size: int = 0
    executable: bool = False


class SourceChanged(Exception):
    """A file changed while it was being read."""


@dataclass(kw_only=True)
class Hashes:
    """Hashes by path and stamp: those ``known`` from an earlier walk, and those to know in the next one."""

    known: dict[str, tuple[Stamp, str]] = field(default_factory=dict)
    kept: dict[str, tuple[Stamp, str]] = field(default_factory=dict)

    def of(self, file: str, path: str, status: os.stat_result) -> str:
        """Return the hash of a file, which is read only if its stamp is new.

        :raises SourceChanged: the file changed meanwhile.
        """
        stamp = stamp_of(status)
        earlier = self.known.get(path)
        if earlier is not None and earlier[0] == stamp:
            self.kept[path] = earlier
            return earlier[1]
        now = time.time_ns()
        digest = _hash(file, stamp)
        if now - max(status.st_mtime_ns, status.st_ctime_ns) > _TOO_FRESH:
            self.kept[path] = (stamp, digest)
        return digest


def stamp_of(status: os.stat_result) -> Stamp:
    """Return the attributes that change with a file's content."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def walk(source: Path, rules: IgnoreRules, hashes: Hashes, skip: Path) -> list[Entry]:
    """Return every entry below ``source`` that the rules include, sorted by path; the folder ``skip`` is left out too.

    :raises RequestError: an entry can't be read or can't travel; the message names it.
    :raises SourceChanged: a file changed meanwhile.
    """
    try:
        found = list(_entries(source, rules, hashes, os.path.realpath(skip)))
    except FileNotFoundError as error:
        raise SourceChanged(str(error.filename)) from error
    except OSError as error:
        remedy = "make it readable, or name it in .amlignore"
        raise RequestError(f"{error.filename!r} of the source folder can't be read: {error.strerror}; {remedy}") from error
    return sorted(found, key=lambda entry: os.fsencode(entry.path))


def _entries(source: Path, rules: IgnoreRules, hashes: Hashes, skip: str) -> Iterator[Entry]:
    root = os.path.realpath(source)
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(os.path.join(root, folder)) as listing:
            for item in listing:
                path = f"{folder}/{item.name}" if folder else item.name
                is_folder = item.is_dir(follow_symlinks=False)
                if rules.leaves_out(path, folder=is_folder) or item.path == skip:
                    continue
                if is_folder:
                    folders.append(path)
                yield _entry(root, path, item, hashes)


def _entry(root: str, path: str, item: os.DirEntry[str], hashes: Hashes) -> Entry:
    if item.is_dir(follow_symlinks=False):
        return Entry(path, FOLDER)
    if item.is_symlink():
        return Entry(path, LINK, content=_link_target(root, path))
    status = item.stat(follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        kind = _kind_name(status.st_mode)
        raise RequestError(f"{item.path!r} of the source folder is a {kind}, which can't travel; name it in .amlignore")
    digest = hashes.of(item.path, path, status)
    return Entry(path, FILE, content=digest, size=status.st_size, executable=bool(status.st_mode & stat.S_IXUSR))


def _link_target(root: str, path: str) -> str:
    """Return a link's target relative to the link, so that it is valid on any node."""
    place = os.path.join(root, path)
    target = os.readlink(place)
    goal = os.path.normpath(os.path.join(os.path.dirname(place), target))
    if os.path.isabs(target):
        goal = os.path.join(os.path.realpath(os.path.dirname(target)), os.path.basename(target))
    for end in (goal, os.path.realpath(place)):
        if os.path.commonpath([end, root]) != root:
            raise RequestError(
                f"{place!r} is a link to {target!r}, outside the source folder; copy its target, or name it in .amlignore"
            )
    return os.path.relpath(goal, os.path.dirname(place)) if os.path.isabs(target) else target


def _kind_name(mode: int) -> str:
    names = {stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
    return names.get(stat.S_IFMT(mode), "special file")


def _hash(file: str, stamp: Stamp) -> str:
    with open(file, "rb") as content:
        if stamp_of(os.fstat(content.fileno())) != stamp:
            raise SourceChanged(file)
        digest = hashlib.file_digest(content, "sha256").hexdigest()
        if stamp_of(os.fstat(content.fileno())) != stamp:
            raise SourceChanged(file)
        return digest
