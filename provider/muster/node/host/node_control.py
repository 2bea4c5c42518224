"""The steward: what a target asks of a host for its jobs: lay out a node and start its agent, look at nodes, end, remove them.

One JSON line on the standard input, for ``start`` followed by a tar of the node's files; one JSON answer. Its argument is the
root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import IO, Any

from muster.core.paths import NodePaths
from muster.node import processes
from muster.node.host import handover, liveness, node_folder
from muster.node.host.clean_environment import clean_environment

TAIL_READ = 1 << 20  # bytes from the end of an event log in which its END is looked for
KILL_TIME = 20.0  # seconds for the kernel to end what was killed
STALE = {"ok": False, "error": "the launch was given up, or another one of the same attempt was faster", "stale": True}


def main(arguments: list[str]) -> int:
    """Answer the request on the standard input; the root folder is the argument."""
    control = NodeControl(Path(arguments[0]).expanduser())
    request = json.loads(sys.stdin.buffer.readline())
    fields = {name: value for name, value in request.items() if name != "do"}
    if request["do"] == "start":
        fields["files"] = sys.stdin.buffer
    json.dump(getattr(control, f"do_{request['do']}")(**fields), sys.stdout)
    return 0


class NodeControl:
    """The nodes below one root folder."""

    def __init__(self, root: Path) -> None:
        self._jobs = root / "jobs"

    # -- start

    def do_start(
        self, *, folder: str, launch: int, marker: str, mounts: list[str], archive: str, before: list[str], files: IO[bytes]
    ) -> dict[str, Any]:
        """Lay out a node and start its guardian, unless a later launch has been here; an earlier one is ended first.

        ``archive``: the packed code, "" for none; ``before``: the node's folders of earlier attempts, the newest first, for one
        that commits what their ranks left.
        """
        node, earlier = self._own(folder), [NodePaths(root=self._own(folder)) for folder in before]
        missing = [mount for mount in mounts if not os.path.isdir(mount)]
        if missing:
            return {"ok": False, "error": f"mounts: there is no folder {missing[0]!r}; mount or make it first"}
        with node_folder.alone(node):
            again = node_folder.launch_of(node) == launch  # the connection having been lost meanwhile
            if node_folder.launch_of(node) > launch or node_folder.is_given_up(node, launch):
                return STALE
            if not again:
                if self.do_end(folders=[folder], reason="its launch was broken off", cause="fenced", patience=5.0)["left"]:
                    return {"ok": False, "error": "an earlier launch has left processes that could not be ended"}
                node_folder.lay_out(node, files, launch, archive, commits=bool(before))
            if node_folder.is_given_up(node, launch):  # meanwhile, by somebody who may not have seen the folder
                node_folder.clear(node, keep=bool(before))
                return STALE
            return _take_over_and_start(NodePaths(root=node), marker, earlier, again=again)

    def do_give_up(self, *, folder: str, launch: int, keep: bool) -> dict[str, Any]:
        """End what a launch or an earlier one has started and delete it; what it has not begun by now, it will not begin.

        ``keep``: but for what earlier ranks left, of which this may be the only copy. ``left``: what could not be ended.
        """
        node = self._own(folder)
        node_folder.give_up(node, launch)
        left: list[str] = []
        if node.exists() and node_folder.launch_of(node) <= launch:
            left = self.do_end(folders=[folder], reason="the launch was given up", cause="fenced", patience=5.0)["left"]
            if not left:
                node_folder.clear(node, keep=keep)
        return {"left": left}

    def do_again(self, folder: str, launch: int) -> dict[str, Any]:
        """Start the guardian of a node anew that was lost, in the folder as it is; ``lives``: whether it does, whoever did it.

        Not if the node is gone, is told to end, or is another launch's by now.
        """
        node = self._own(folder)
        paths = NodePaths(root=node)
        with liveness.alone(folder, patient=True):
            if not paths.assignment.exists() or node_folder.launch_of(node) != launch or paths.cancel.exists():
                return {"lives": False}
            if not liveness.lives(folder):
                _start_anew(paths)
        return {"lives": liveness.lives(folder)}

    # -- look, end, remove

    def do_look(self, folders: list[str]) -> dict[str, Any]:
        """Say of each node whether it is there, lives, is told to end, was lost by a reboot, and what END its log has."""
        return {"nodes": [_seen(folder) for folder in folders]}

    def do_assignment(self, folder: str) -> dict[str, Any]:
        """Give what a node was told to do."""
        try:
            return {"assignment": json.loads(NodePaths(root=self._own(folder)).assignment.read_text(encoding="utf-8"))}
        except FileNotFoundError:
            return {"assignment": None}

    def do_end(self, *, folders: list[str], reason: str, cause: str, patience: float, launch: int = 0) -> dict[str, Any]:
        """Have agents end their ranks and leave; what outlives ``patience`` seconds is killed. ``left``: what could not be.

        ``launch``: of one that may not have begun here yet, and must not.
        """
        for folder in folders if launch else ():
            node_folder.give_up(self._own(folder), launch)
        wish = json.dumps({"cause": cause, "reason": reason})
        there = [folder for folder in folders if os.path.isdir(self._own(folder))]
        for folder in there:
            with contextlib.suppress(OSError):  # a full disk takes no reason; they leave without one too
                _write_private(NodePaths(root=Path(folder)).cancel, wish)
            processes.send(liveness.pids(folder), signal.SIGTERM)
        give_up = time.monotonic() + patience
        while any(liveness.lives(folder) for folder in there) and time.monotonic() < give_up:
            time.sleep(0.02)
        for folder in there:
            processes.send(liveness.pids(folder), signal.SIGKILL)
        give_up = time.monotonic() + KILL_TIME
        while (left := [folder for folder in there if not liveness.sweep(folder)]) and time.monotonic() < give_up:
            time.sleep(0.02)
        return {"left": left}

    def do_remove(self, folders: list[str]) -> dict[str, Any]:
        """Delete nodes that have ended; ``alive`` are those that have not."""
        alive = [folder for folder in folders if liveness.lives(str(self._own(folder)))]
        for folder in folders if not alive else ():
            node = Path(folder)
            shutil.rmtree(node, ignore_errors=True)
            node_folder.forget(node)
        return {"alive": alive}

    def _own(self, folder: str) -> Path:
        """Give a node folder.

        :raises ValueError: it is not below our jobs.
        """
        path = Path(folder)
        if self._jobs not in path.parents or ".." in path.parts:
            raise ValueError(f"{folder} is not below {self._jobs}")
        return path


def _take_over_and_start(paths: NodePaths, marker: str, before: list[NodePaths], *, again: bool) -> dict[str, Any]:
    """Take over what earlier ranks left, if there were any, and start the guardian; ``again``: unless it was."""
    try:
        if before:
            handover.hand_over(before, paths)
    except handover.OutputsGone as gone:
        return {"ok": False, "error": f"what the ranks left can't be had: {gone}; clear the task to train anew"}
    if not again:
        _start_guardian(paths.root, marker)
    elif not paths.guardian.exists():  # who was asked first has died
        with liveness.alone(str(paths.root), patient=True):
            _start_anew(paths)
    return {"ok": True}


def _start_guardian(node: Path, marker: str) -> None:
    """Start a guardian that lives on without us and the connection; waits until it has been born."""
    paths = NodePaths(root=node)
    guardian = [sys.executable, "-I", "-S", sys.argv[0], "guardian", str(node)]
    # the shell leaves at once, so the guardian becomes init's child; nothing of the connection stays open in it
    argv = ["/bin/sh", "-c", '"$@" &', "sh", *guardian]
    log = (os.POSIX_SPAWN_OPEN, 1, str(paths.diagnostics), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), log, (os.POSIX_SPAWN_DUP2, 1, 2)]
    shell = os.posix_spawn("/bin/sh", argv, clean_environment(marker), file_actions=actions, setsid=True)
    os.waitpid(shell, 0)
    give_up = time.monotonic() + liveness.BIRTH_TIME
    while not paths.guardian.exists() and time.monotonic() < give_up:
        time.sleep(0.005)


def _start_anew(paths: NodePaths) -> None:
    """Start a guardian where one has died; waits until it has been born."""
    folder, give_up = str(paths.root), time.monotonic() + KILL_TIME
    while not liveness.sweep(folder) and time.monotonic() < give_up:
        time.sleep(0.02)
    paths.agent.unlink(missing_ok=True)
    paths.guardian.unlink(missing_ok=True)
    os.utime(paths.assignment)  # from now on it may be about to be born
    (paths.root / liveness.BOOT).write_text(liveness.boot_id())
    _start_guardian(paths.root, liveness.marker_of(folder))


def _seen(folder: str) -> dict[str, Any]:
    alive = liveness.lives(folder)  # first: what was written before a death is still read
    return {
        "there": os.path.exists(os.path.join(folder, "assignment.json")),
        "alive": alive,
        "ending": NodePaths(root=Path(folder)).cancel.exists(),
        "rebooted": liveness.was_rebooted(folder),
        "end": _end_line(folder),
    }


def _end_line(folder: str) -> str:
    """Give the line of the END event in a node's log, "" if there is none."""
    try:
        with open(NodePaths(root=Path(folder)).events, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_READ))
            lines = [line for line in file.read().splitlines() if b'"k": "end"' in line]
    except OSError:
        return ""
    return lines[-1].decode(errors="replace") if lines else ""


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
