"""Laying out a node's folder on a host: whole or not at all, not if its launch was given up, and never over what ranks left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from muster.core.paths import NodePaths
from muster.node.host import liveness

LAUNCH = "launch"  # in a node folder: which try to launch the attempt has laid it out


def lay_out(node: Path, files: IO[bytes], launch: int, archive: str, *, commits: bool) -> None:
    """Make a node's folder of a tar of its files and the packed code, in place of what an earlier launch has laid out.

    One that ``commits`` what earlier ranks left gets none of that here, and keeps what an earlier launch has taken over.
    """
    scratch = node.with_name(f".new-{node.name}-{os.urandom(4).hex()}")
    try:
        scratch.mkdir(parents=True, mode=0o700)
        _fill(NodePaths(root=scratch), files, "" if commits else archive, work=not commits)
        (scratch / LAUNCH).write_text(str(launch))
        clear(node, keep=commits)
        if commits and node.exists():
            _move(scratch, node)
        else:
            scratch.rename(node)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fill(paths: NodePaths, files: IO[bytes], archive: str, *, work: bool) -> None:
    for folder in (paths.outputs, paths.logs, paths.checkpoints, paths.ranks) if work else ():
        folder.mkdir(parents=True)
    if archive:
        unpack(archive, paths.work)
    with tarfile.open(fileobj=files, mode="r|") as packed:
        packed.extractall(paths.root, filter="data") if hasattr(tarfile, "data_filter") else packed.extractall(paths.root)
    os.utime(paths.assignment)  # a tar has its own times, and from now on a guardian may be about to be born
    (paths.root / liveness.BOOT).write_text(liveness.boot_id())


def _move(scratch: Path, node: Path) -> None:
    """Fill a folder that can't be replaced; what says whose it is comes last."""
    for file in sorted(scratch.iterdir(), key=lambda file: file.name == LAUNCH):
        file.rename(node / file.name)


def clear(node: Path, *, keep: bool) -> None:
    """Delete what a launch has laid out; ``keep``: but for what ranks left, of which this may be the only copy."""
    paths = NodePaths(root=node)
    if not keep or not (paths.work.exists() or paths.ranks.exists()):
        shutil.rmtree(node, ignore_errors=True)
        return
    for path in node.iterdir():
        if path not in (paths.work, paths.ranks):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def unpack(archive: str, work: Path) -> None:
    """Unpack a job's code."""
    with tarfile.open(archive, "r:gz") as packed:
        packed.extractall(work, filter="data") if hasattr(tarfile, "data_filter") else packed.extractall(work)


def launch_of(node: Path) -> int:
    """Give which launch has laid out a node, 0 if none has to its end."""
    return _number(node / LAUNCH)


# -- launches that were given up, perhaps before they had begun here


def give_up(node: Path, launch: int) -> None:
    """Have this launch and all before it start nothing here any more; where that can't be noted, nothing can be laid out."""
    if is_given_up(node, launch):
        return
    scratch = node.with_name(f".new-{node.name}-{os.urandom(4).hex()}")
    with contextlib.suppress(OSError):
        node.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch.write_text(str(launch))
        scratch.rename(_given_up(node))
    with contextlib.suppress(OSError):
        scratch.unlink()


def is_given_up(node: Path, launch: int) -> bool:
    """Whether a launch must start nothing here."""
    return _number(_given_up(node)) >= launch


def forget(node: Path) -> None:
    """Delete what is known of launches of a node that is removed, and the folders that are empty then."""
    _given_up(node).unlink(missing_ok=True)
    for parent in (node.parent, node.parent.parent):
        with contextlib.suppress(OSError):
            parent.rmdir()


@contextlib.contextmanager
def alone(node: Path) -> Iterator[None]:
    """Lay out and start while nobody else does, whose request for the same may come twice; where there are locks."""
    node.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(node.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _given_up(node: Path) -> Path:
    return node.with_name(f".{node.name}.given-up")


def _number(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0
