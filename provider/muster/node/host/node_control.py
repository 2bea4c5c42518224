"""Host control command: start, inspect, stop and remove nodes on one host. One JSON request in, one JSON reply out.

The request is a line on the standard input; :class:`StartNode` is followed by a tar of the node's files. The argument is the
root folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from muster.core.event import Event
from muster.core.paths import NodePaths
from muster.core.verdict import Cause
from muster.node import processes
from muster.node.assignment import Assignment
from muster.node.cancel_request import CancelRequest
from muster.node.event_log import read_end
from muster.node.host import guardian_process, liveness, node_folder
from muster.node.rpc import CommandFailed, Commands, Request

PART = "node-control"  # of start.py
KILL_TIME = 20.0  # seconds for the kernel to end what was killed
FENCE_TIME = 5.0  # seconds for agents of a launch that was given up


@dataclass(frozen=True, kw_only=True)
class StartReply:
    """Outcome of a start: ``stale`` if the launch was given up or a later one was faster, ``refused``: the reason."""

    stale: bool = False
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class StartNode(Request[StartReply]):
    """Create a node's folder and start its guardian. ``archive``: the packed code, "" for none.

    ``earlier``: the node's folders of earlier attempts, the newest first, for a node that commits their ranks' outputs.
    """

    folder: str
    launch: int
    marker: str
    mounts: tuple[str, ...] = ()
    archive: str = ""
    earlier: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AbandonLaunch(Request[tuple[str, ...]]):
    """End and delete what a launch or an earlier one has started, and forbid it to start more; return what could not be ended.

    ``keep_outputs``: but for the outputs of earlier ranks.
    """

    folder: str
    launch: int
    keep_outputs: bool


@dataclass(frozen=True, kw_only=True)
class RestartNode(Request[bool]):
    """Restart the guardian of a lost node in its folder as it is; return whether the node is alive, whoever started it."""

    folder: str
    launch: int


@dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """State of a node: ``ending`` if it has a cancel request, ``rebooted`` if it was lost by a reboot, its log's END event."""

    exists: bool
    alive: bool
    ending: bool
    rebooted: bool
    end: Event | None


@dataclass(frozen=True, kw_only=True)
class InspectNodes(Request[tuple[NodeStatus, ...]]):
    """Return the state of nodes."""

    folders: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ReadAssignment(Request[Assignment | None]):
    """Return a node's assignment, None if its folder is gone."""

    folder: str


@dataclass(frozen=True, kw_only=True)
class EndNodes(Request[tuple[str, ...]]):
    """Cancel nodes, and kill what outlives ``timeout`` seconds; return the folders of nodes that could not be ended.

    ``launch``: the number of a launch that may not have begun here, and must not; 0 for none.
    """

    folders: tuple[str, ...]
    cancel: CancelRequest
    timeout: float
    launch: int = 0


@dataclass(frozen=True, kw_only=True)
class RemoveNodes(Request[tuple[str, ...]]):
    """Delete nodes, unless some are alive; return the folders of those."""

    folders: tuple[str, ...]


def main(arguments: list[str]) -> int:
    """Answer the request on the standard input."""
    control = NodeControl(Path(arguments[0]).expanduser(), sys.stdin.buffer)
    json.dump(control.commands.answer(sys.stdin.buffer.readline()), sys.stdout)
    return 0


class NodeControl:
    """The nodes below one root folder; ``files`` is the tar that follows the request."""

    def __init__(self, root: Path, files: IO[bytes]) -> None:
        self._jobs = root / "jobs"
        self._files = files
        self.commands = Commands(
            {
                StartNode: self.start_node,
                AbandonLaunch: self.abandon_launch,
                RestartNode: self.restart_node,
                InspectNodes: self.inspect_nodes,
                ReadAssignment: self.read_assignment,
                EndNodes: self.end_nodes,
                RemoveNodes: self.remove_nodes,
            }
        )

    # -- start

    def start_node(self, request: StartNode) -> StartReply:
        """Create the node's folder and start its guardian; end an earlier launch first, and leave a later one alone."""
        node, launch = self._checked(request.folder), request.launch
        earlier = [NodePaths(root=self._checked(folder)) for folder in request.earlier]
        missing = [mount for mount in request.mounts if not os.path.isdir(mount)]
        if missing:
            return StartReply(refused=f"mounts: there is no folder {missing[0]!r}; mount or make it first")
        with node_folder.locked_node(node):
            repeated = node_folder.launch_of(node) == launch  # the connection was lost meanwhile
            if node_folder.launch_of(node) > launch or node_folder.is_abandoned(node, launch):
                return StartReply(stale=True)
            if not repeated:
                if self._fence(request.folder, "its launch was broken off"):
                    return StartReply(refused="an earlier launch has left processes that could not be ended")
                node_folder.create_node(node, self._files, launch, request.archive, commits=bool(earlier))
            if node_folder.is_abandoned(node, launch):  # meanwhile, by a request that may not have seen the folder
                node_folder.delete(node, keep_outputs=bool(earlier))
                return StartReply(stale=True)
            return _hand_over_and_start(NodePaths(root=node), request.marker, earlier, repeated=repeated)

    def abandon_launch(self, request: AbandonLaunch) -> tuple[str, ...]:
        """Abandon a launch."""
        node = self._checked(request.folder)
        node_folder.abandon_launch(node, request.launch)
        left: tuple[str, ...] = ()
        if node.exists() and node_folder.launch_of(node) <= request.launch:
            left = self._fence(request.folder, "the launch was given up")
            if not left:
                node_folder.delete(node, keep_outputs=request.keep_outputs)
        return left

    def _fence(self, folder: str, reason: str) -> tuple[str, ...]:
        cancel = CancelRequest(cause=Cause.FENCED, reason=reason)
        return self.end_nodes(EndNodes(folders=(folder,), cancel=cancel, timeout=FENCE_TIME))

    def restart_node(self, request: RestartNode) -> bool:
        """Restart a lost node, unless it is gone, has a cancel request, or belongs to another launch by now."""
        node = self._checked(request.folder)
        paths = NodePaths(root=node)
        with liveness.locked_folder(request.folder, wait=True):
            if not paths.assignment.exists() or node_folder.launch_of(node) != request.launch or paths.cancel.exists():
                return False
            if not liveness.is_alive(request.folder):
                _restart(paths)
        return liveness.is_alive(request.folder)

    # -- inspect, end, remove

    def inspect_nodes(self, request: InspectNodes) -> tuple[NodeStatus, ...]:
        """Return the state of nodes."""
        return tuple(_status(str(self._checked(folder))) for folder in request.folders)

    def read_assignment(self, request: ReadAssignment) -> Assignment | None:
        """Return a node's assignment."""
        try:
            return Assignment.read(NodePaths(root=self._checked(request.folder)).assignment)
        except FileNotFoundError:
            return None

    def end_nodes(self, request: EndNodes) -> tuple[str, ...]:
        """Cancel nodes, wait for their ends, kill the rest."""
        nodes = {folder: self._checked(folder) for folder in request.folders}
        for node in nodes.values() if request.launch else ():
            node_folder.abandon_launch(node, request.launch)
        there = [folder for folder, node in nodes.items() if node.is_dir()]
        for folder in there:
            with contextlib.suppress(OSError):  # a full disk takes no reason; agents leave without one too
                request.cancel.write(NodePaths(root=Path(folder)).cancel)
            processes.send_signal(liveness.pids(folder), signal.SIGTERM)
        deadline = time.monotonic() + request.timeout
        while any(liveness.is_alive(folder) for folder in there) and time.monotonic() < deadline:
            time.sleep(0.02)
        for folder in there:
            processes.send_signal(liveness.pids(folder), signal.SIGKILL)
        deadline = time.monotonic() + KILL_TIME
        while (left := [folder for folder in there if not liveness.sweep(folder)]) and time.monotonic() < deadline:
            time.sleep(0.02)
        return tuple(left)

    def remove_nodes(self, request: RemoveNodes) -> tuple[str, ...]:
        """Delete nodes that have ended."""
        nodes = {folder: self._checked(folder) for folder in request.folders}
        alive = tuple(folder for folder in nodes if liveness.is_alive(folder))
        for node in nodes.values() if not alive else ():
            shutil.rmtree(node, ignore_errors=True)
            node_folder.delete_launches(node)
        return alive

    def _checked(self, folder: str) -> Path:
        """Return a node folder.

        :raises CommandFailed: it is not below our jobs.
        """
        path = Path(folder)
        if self._jobs not in path.parents or ".." in path.parts:
            raise CommandFailed(f"{folder} is not below {self._jobs}")
        return path


def _hand_over_and_start(paths: NodePaths, marker: str, earlier: list[NodePaths], *, repeated: bool) -> StartReply:
    """Move earlier ranks' outputs into the node's folder, and start the guardian; ``repeated``: unless started."""
    try:
        if earlier:
            node_folder.hand_over_outputs(earlier, paths)
    except node_folder.OutputsGone as gone:
        return StartReply(refused=f"the ranks' outputs are not available: {gone}; clear the task to train anew")
    if not repeated:
        guardian_process.start_guardian(paths, sys.argv[0], marker)
        guardian_process.wait_for_guardian(paths)
    elif not paths.guardian.exists():  # the process that got the first request has died
        with liveness.locked_folder(str(paths.root), wait=True):
            _restart(paths)
    return StartReply()


def _restart(paths: NodePaths) -> None:
    """Start a guardian where one has died; wait until its pid is written."""
    folder, deadline = str(paths.root), time.monotonic() + KILL_TIME
    while not liveness.sweep(folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    guardian_process.restart_guardian(paths, sys.argv[0])


def _status(folder: str) -> NodeStatus:
    alive = liveness.is_alive(folder)  # first: what was written before a death is still read
    paths = NodePaths(root=Path(folder))
    return NodeStatus(
        exists=paths.assignment.exists(),
        alive=alive,
        ending=paths.cancel.exists(),
        rebooted=liveness.was_rebooted(folder),
        end=read_end(paths.events),
    )
