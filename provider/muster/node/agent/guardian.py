"""The guardian: the agent's parent, which outlives the agent; when the agent dies it ends every rank and reports so."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time

from muster.node import processes

TYPE_CHECKING = False  # of ours: typing and json would be a seventh of this process, which every node has for all of a run
if TYPE_CHECKING:
    from typing import Any

BEAT = b"beat"  # the agent's sign of life
NO_LEADER = 75  # the agent's exit status when it found no leader to follow: it has reported so, and started nothing
SILENCE = 60.0  # seconds without a beat after which the agent counts as stuck
SYNC_GRACE = 90.0  # seconds the sync process has for its final pass once the agent is gone


def main(folder: str) -> int:
    """Run the agent of a node folder and outlive it; return the agent's exit status (128 + signal if it was killed)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # a cancel may come before there is an agent to take it
    os.chdir(folder)
    processes.become_subreaper()
    ours, agents = socket.socketpair()
    _write("guardian.json", f'{{"pid": {os.getpid()}, "start": {processes.start_time(os.getpid())}}}')
    agents.set_inheritable(True)
    argv = [sys.executable, "-I", "-S", sys.argv[0], "agent", folder, str(agents.fileno())]
    agent = os.posix_spawn(sys.executable, argv, os.environ, setsigmask=[signal.SIGTERM])
    agents.close()
    signal.signal(signal.SIGTERM, lambda *_: processes.send_signal([agent], signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    status, sync = _outlive(agent, ours)
    left = processes.kill_descendants(os.getpid(), spare=sync)
    if status != 0:
        _report_death(status, left)
    ours.close()
    _await_sync(sync)
    return status


def _outlive(agent: int, line: socket.socket) -> tuple[int, list[int]]:
    """Wait until the agent is gone; return its exit status and the pid of its sync process.

    The agent sends a beat every few seconds. A silent agent is stopped or stuck, and can't end its ranks; it is killed, so
    that we can.
    """
    sync: list[int] = []
    while select.select([line], [], [], SILENCE)[0]:
        words = line.recv(65536).split()
        if not words:
            break
        sync += [int(word) for word in words if word != BEAT]
    else:
        processes.send_signal([agent], signal.SIGKILL)
    _, status = os.waitpid(agent, 0)
    code = os.waitstatus_to_exitcode(status)
    return (code if code >= 0 else 128 - code), sync


def _report_death(status: int, left: list[int]) -> None:
    """Write the last events of a node whose agent could not; the leader's node speaks for the whole run."""
    import json

    with open("assignment.json", encoding="utf-8") as file:
        node = json.load(file)["node"]
    if status == NO_LEADER and node != 0:
        return
    how = f"signal {status - 128}" if status > 128 else f"exit {status}"
    detail = f"the agent of node {node} died ({how}); every rank on the node was ended"
    if left:
        detail += f", but for processes {left}: they are another user's, or the kernel keeps them"
    end: dict[str, Any] = {
        "k": "end",
        "state": "Failed",
        "verdict": {"cause": "node", "detail": detail, "node": node},
        "manifest": None,
    }
    ends: list[dict[str, Any]] = [end] if node == 0 and not _has_ended() else []
    events: list[dict[str, Any]] = [{"k": "note", "level": "error", "text": detail}, *ends, {"k": "node_end"}]
    lines = "".join(json.dumps({"t": round(time.time(), 6), "n": node, **event}) + "\n" for event in events)
    fd = os.open("events.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, (_half_line_end() + lines).encode())
    os.close(fd)


def _tail() -> bytes:
    try:
        with open("events.jsonl", "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65536))
            return file.read()
    except FileNotFoundError:
        return b""


def _has_ended() -> bool:
    return any(b'"k": "end"' in line for line in _tail().splitlines())


def _half_line_end() -> str:
    """An agent killed while writing may leave half a line; a line end shows readers that it is broken."""
    tail = _tail()
    return "\n" if tail and not tail.endswith(b"\n") else ""


def _await_sync(sync: list[int]) -> None:
    deadline = time.monotonic() + SYNC_GRACE
    while any(processes.start_time(pid) for pid in sync) and time.monotonic() < deadline:
        processes.reap()
        time.sleep(0.01)
    processes.send_signal(sync, signal.SIGKILL)


def _write(name: str, text: str) -> None:
    with open(name + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(name + ".new", name)
