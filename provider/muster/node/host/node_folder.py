"""Creates a node's folder atomically; refuses abandoned launches and never overwrites the ranks' outputs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from muster.core.paths import NodePaths
from muster.node.host import liveness

LAUNCH = "launch"  # in a node folder: the number of the launch that created it


def create_node(node: Path, files: IO[bytes], launch: int, archive: str, *, commits: bool) -> None:
    """Create a node's folder from a tar of its files and the packed code, in place of an earlier launch's folder.

    A node that ``commits`` the outputs of earlier ranks gets no code, and keeps the outputs that an earlier launch has taken.
    """
    scratch = node.with_name(f".new-{node.name}-{os.urandom(4).hex()}")
    try:
        scratch.mkdir(parents=True, mode=0o700)
        _fill(NodePaths(root=scratch), files, "" if commits else archive, work=not commits)
        (scratch / LAUNCH).write_text(str(launch))
        delete(node, keep_outputs=commits)
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
        unpack_code(archive, paths.work)
    with tarfile.open(fileobj=files, mode="r|") as packed:
        _extract(packed, paths.root)
    liveness.expect_birth(paths)  # a tar has its own times


def _move(scratch: Path, node: Path) -> None:
    """Fill a folder that can't be replaced; the number of the launch comes last."""
    for file in sorted(scratch.iterdir(), key=lambda file: file.name == LAUNCH):
        file.rename(node / file.name)


def delete(node: Path, *, keep_outputs: bool) -> None:
    """Delete a node's folder; ``keep_outputs``: but for the ranks' outputs, of which this may be the only copy."""
    paths = NodePaths(root=node)
    if not keep_outputs or not (paths.work.exists() or paths.ranks.exists()):
        shutil.rmtree(node, ignore_errors=True)
        return
    for path in node.iterdir():
        if path not in (paths.work, paths.ranks):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def unpack_code(archive: str, work: Path) -> None:
    """Unpack a job's code."""
    with tarfile.open(archive, "r:gz") as packed:
        _extract(packed, work)


def _extract(packed: tarfile.TarFile, folder: Path) -> None:
    # older releases of Python have no filter; links that lead outside are refused when the code is packed
    packed.extractall(folder, filter="data") if hasattr(tarfile, "data_filter") else packed.extractall(folder)


def launch_of(node: Path) -> int:
    """Return the number of the launch that created a node's folder, 0 if none has completed it."""
    return _number(node / LAUNCH)


# -- outputs of earlier attempts, for attempts that only commit them: moved from folder to folder, never deleted


class OutputsGone(Exception):
    """The ranks' outputs are in none of the folders; the message names the folders."""


def hand_over_outputs(earlier: Iterable[NodePaths], node: NodePaths) -> None:
    """Move the ranks' outputs into a node's folder that has none; may be repeated after an interruption.

    ``earlier``: the node's folders of the attempts before, the newest first. An attempt that failed before it had taken the
    outputs has none either.

    :raises OutputsGone: no folder has the outputs.
    """
    folders = list(earlier)
    _hand_over([before.work for before in folders], node.work)
    _hand_over([before.ranks for before in folders], node.ranks)


def _hand_over(earlier: list[Path], path: Path) -> None:
    if path.exists():
        return
    source = next((folder for folder in earlier if folder.exists()), None)
    if source is None:
        searched = ", ".join(str(folder.parent) for folder in earlier) or "no earlier attempt"
        raise OutputsGone(f"{path.name} is in none of {searched}")
    os.rename(source, path)


# -- launches that were given up, perhaps before they had begun on this host


def abandon_launch(node: Path, launch: int) -> None:
    """Forbid this launch and all before it to start anything here; without the mark, no folder can be created."""
    if is_abandoned(node, launch):
        return
    scratch = node.with_name(f".new-{node.name}-{os.urandom(4).hex()}")
    with contextlib.suppress(OSError):
        node.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch.write_text(str(launch))
        scratch.rename(_abandoned(node))
    with contextlib.suppress(OSError):
        scratch.unlink()


def is_abandoned(node: Path, launch: int) -> bool:
    """Return whether a launch must start nothing here."""
    return _number(_abandoned(node)) >= launch


def delete_launches(node: Path) -> None:
    """Delete the record of launches of a node that is removed, and the folders that are empty then."""
    _abandoned(node).unlink(missing_ok=True)
    for parent in (node.parent, node.parent.parent):
        with contextlib.suppress(OSError):
            parent.rmdir()


@contextlib.contextmanager
def locked_node(node: Path) -> Iterator[None]:
    """Lock a node's folder against a repeated request for the same launch; where the file system has locks."""
    node.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(node.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _abandoned(node: Path) -> Path:
    return node.with_name(f".{node.name}.given-up")


def _number(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0
