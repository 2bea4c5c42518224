"""Digests of the code and packages on a node, to be compared with the plan and between nodes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

SNAPSHOT_SEAL = b"muster snapshot 1\n"
RUN_FOLDERS = ("outputs", "logs", "checkpoints")  # at the root of the code; made for the run, and in no snapshot
SYSTEM = Path("/usr")
SEEDS = frozenset({"pip", "setuptools", "wheel"})
_CHUNK = 1 << 20  # bytes


def snapshot_of(folder: Path) -> str:
    """Return the snapshot digest of unpacked code; that of its archive, if nothing was changed.

    The rule is that of ``muster.packaging.code.snapshot``: kind, path and content of every entry, in the order of the paths.
    """
    seal = hashlib.sha256(SNAPSHOT_SEAL)
    for path, kind, content in sorted(_entries(os.fsencode(folder))):
        seal.update(b"\0".join((kind, path, content, b"\n")))
    return f"sha256:{seal.hexdigest()}"


def _entries(root: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    left_out = {os.fsencode(name) for name in RUN_FOLDERS}
    folders = [b""]
    while folders:
        folder = folders.pop()
        with os.scandir(os.path.join(root, folder)) as listing:
            for item in listing:
                if not folder and item.name in left_out:
                    continue
                path = folder + b"/" + item.name if folder else item.name
                if item.is_dir(follow_symlinks=False):
                    folders.append(path)
                yield (path, *_kind_and_content(item))


def _kind_and_content(item: os.DirEntry[bytes]) -> tuple[bytes, bytes]:
    if item.is_symlink():
        return b"link", os.readlink(item.path)
    if item.is_dir(follow_symlinks=False):
        return b"folder", b""
    mode = item.stat(follow_symlinks=False).st_mode
    if not stat.S_ISREG(mode):
        return b"special", b""
    return b"program" if mode & stat.S_IXUSR else b"file", _sha256(item.path)


def _sha256(file: bytes) -> bytes:
    seal = hashlib.sha256()
    with open(file, "rb", buffering=0) as content:
        while chunk := content.read(_CHUNK):
            seal.update(chunk)
    return seal.hexdigest().encode()


def packages(interpreter: str) -> tuple[str, ...]:
    """Return what is installed beside an interpreter, as ``python3.11/torch-2.3.0``; () where nothing is found.

    Packages of the system's own Python are not the job's; the seeds of a venv depend on its host's Python.
    """
    prefix = Path(interpreter).parent.parent
    if not interpreter or prefix == SYSTEM:
        return ()
    folders = (place for name in ("site-packages", "dist-packages") for place in prefix.glob(f"lib/python3*/{name}"))
    names = (f"{folder.parent.name}/{name}" for folder in folders for name in _names(folder) if name.endswith(".dist-info"))
    return tuple(sorted(name.removesuffix(".dist-info") for name in names if _package(name) not in SEEDS))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def digest_of(names: Iterable[str]) -> str:
    """Return the digest of a list of names, "" of an empty one."""
    text = "\n".join(names)
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()}" if text else ""


def difference(ours: Collection[str], theirs: Collection[str], most: int = 3) -> str:
    """Return how our packages differ from theirs, as ``torch-2.3.0 instead of torch-2.4.1``; "" if they don't."""
    pythons = [sorted({name.partition("/")[0] for name in names}) for names in (ours, theirs)]
    if pythons[0] != pythons[1]:
        return f"{' and '.join(pythons[0])} instead of {' and '.join(pythons[1])}"
    extra = {_package(name): _short(name) for name in set(ours) - set(theirs)}
    lacking = {_package(name): _short(name) for name in set(theirs) - set(ours)}
    words = [_difference(extra.get(name), lacking.get(name)) for name in sorted({*extra, *lacking})]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def _difference(has: str | None, lacks: str | None) -> str:
    if has and lacks:
        return f"{has} instead of {lacks}"
    return f"{has}, which they have not" if has else f"no {lacks}"


def _package(name: str) -> str:
    return _short(name).partition("-")[0]


def _short(name: str) -> str:
    return name.rpartition("/")[2]
