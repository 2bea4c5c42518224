"""Scans a folder for files: follows links inside it, and reports links out of it and what is no regular file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from muster.store.s3.upload import Signature

KEY_LIMIT = 900  # bytes of a path; S3 keys have at most 1,024 with the prefix


@dataclass(frozen=True, kw_only=True)
class ScannedFile:
    """A file to be stored: ``path`` as people know it (``outputs/a.pt``), where it is, and its signature."""

    path: str
    file: Path
    signature: Signature


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The files of a folder in order of their paths, and a sentence on each that is left out."""

    files: tuple[ScannedFile, ...] = ()
    left_out: tuple[str, ...] = ()

    def __add__(self, other: Scan) -> Scan:
        return Scan(files=self.files + other.files, left_out=self.left_out + other.left_out)


def scan(folder: Path, prefix: str) -> Scan:
    """Return the files of a folder, ``prefix`` before their paths; a folder that does not exist is empty."""
    if not folder.is_dir():
        return Scan()
    root = Path(os.path.realpath(folder))
    files: list[ScannedFile] = []
    left_out: list[str] = []
    for path, entry in _walk(folder, prefix, root, (str(root),)):
        if isinstance(entry, str):
            left_out.append(f"{_readable(path)} {entry}; it is not stored")
        else:
            files.append(ScannedFile(path=path, file=folder / path.removeprefix(prefix + "/"), signature=entry))
    return Scan(files=tuple(sorted(files, key=lambda file: file.path)), left_out=tuple(left_out))


def _walk(folder: Path, prefix: str, root: Path, above: tuple[str, ...]) -> Iterator[tuple[str, Signature | str]]:
    """Yield every path with its file's signature, or with the reason to leave it out."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield prefix, _cannot_be_read(error)
        return
    for entry in entries:
        path = f"{prefix}/{entry.name}"
        try:
            yield from _scan_entry(entry, path, root, above)
        except FileNotFoundError:
            continue  # deleted since the folder was read
        except OSError as error:
            yield path, _cannot_be_read(error)


def _scan_entry(
    entry: os.DirEntry[str], path: str, root: Path, above: tuple[str, ...]
) -> Iterator[tuple[str, Signature | str]]:
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if not os.path.exists(target):
            yield path, f"is a link to {target}, which does not exist"
            return
        if not Path(target).is_relative_to(root):
            yield path, f"is a link out of its folder, to {target}"
            return
    if entry.is_dir():
        real = os.path.realpath(entry.path)
        if real in above:
            yield path, "is a link to a folder that it is in"
            return
        yield from _walk(Path(entry.path), path, root, (*above, real))
        return
    yield path, _signature_or_reason(path, Path(entry.path))


def _signature_or_reason(path: str, file: Path) -> Signature | str:
    """Return the signature of a file that can be stored, else the reason why it can't."""
    if not stat.S_ISREG(file.stat().st_mode):
        return "is no regular file"
    if not os.access(file, os.R_OK):
        return "may not be read"
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    if length > KEY_LIMIT:
        return f"has a path of {length} bytes, more than the {KEY_LIMIT} that stores take"
    return Signature.of(file)


def _cannot_be_read(error: OSError) -> str:
    return f"can't be read: {(error.strerror or str(error)).lower()}"


def _readable(path: str) -> str:
    return path if path.isprintable() else repr(path)[1:-1]
