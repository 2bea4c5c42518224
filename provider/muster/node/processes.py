"""The processes of this node, read from /proc: finds descendants, and ends all of them, verified."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterable

PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Adopt orphaned descendants in place of init, also those that called ``setsid``."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def start_time(pid: int) -> int:
    """Return the start time of a living process in clock ticks since boot; 0 if it is gone or a zombie."""
    fields = _stat(pid)
    return 0 if fields is None or fields[0] == "Z" else int(fields[19])


def descendants(root: int, spare: Iterable[int] = ()) -> list[int]:
    """Return every living descendant of ``root``, less the trees below ``spare``; zombies don't count."""
    children: dict[int, list[int]] = {}
    for pid in _all_pids():
        fields = _stat(pid)
        if fields is not None and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(pid)
    spared, found, queue = set(spare), [], [root]
    while queue:
        for child in children.get(queue.pop(), []):
            if child not in spared:
                found.append(child)
                queue.append(child)
    return found


def marked(marker: str) -> list[int]:
    """Return every living process whose environment holds ``marker`` (``NAME=value``), but this one."""
    wanted, me, found = marker.encode(), os.getpid(), []
    for pid in _all_pids():
        if pid != me and wanted in _environment(pid) and start_time(pid):
            found.append(pid)
    return found


def kill_marked(marker: str, limit: float = 10.0) -> bool:
    """KILL every process whose environment holds ``marker``; return False if one survives ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while (left := marked(marker)) and time.monotonic() < deadline:
        send_signal(left, signal.SIGKILL)
        time.sleep(0.02)
    return not left


def carrying(name: str, pids: Iterable[int]) -> set[int]:
    """Return those of the processes that were started with a variable of this name."""
    begin = f"{name}=".encode()
    return {pid for pid in pids if any(variable.startswith(begin) for variable in _environment(pid))}


def send_signal(pids: Iterable[int], number: int) -> set[int]:
    """Signal processes; ignore those already gone. Return those that may not be signalled: another user's."""
    forbidden = set()
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            forbidden.add(pid)
    return forbidden


def kill_descendants(root: int, spare: Iterable[int] = (), limit: float = 20.0) -> list[int]:
    """KILL every descendant until none is left; return those that survive ``limit`` seconds (none, but for a stuck kernel).

    They are stopped first, so that a tree that forks fast can't outrun the look at it. Those of another user (``sudo``)
    can't be ended by us, and are not waited for.
    """
    deadline = time.monotonic() + limit
    while living := descendants(root, spare):
        send_signal(living, signal.SIGSTOP)
        forbidden = send_signal(descendants(root, spare), signal.SIGKILL)
        reap()
        if time.monotonic() > deadline or forbidden.issuperset(living):
            return living
        time.sleep(0.005)
    return []


def reap() -> dict[int, int]:
    """Collect children that have ended, so that none stays as a zombie; return the exit code of each, or -signal."""
    ended: dict[int, int] = {}
    try:
        while (child := os.waitpid(-1, os.WNOHANG))[0]:
            ended[child[0]] = os.waitstatus_to_exitcode(child[1])
    except ChildProcessError:
        pass
    return ended


def _environment(pid: int) -> list[bytes]:
    """Return the variables that a process was started with; none if it is gone or another user's."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on (state, ppid, pgrp, session, …)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None
