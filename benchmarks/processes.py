"""Processes seen from outside: which carry a mark in their environment, what memory and processor time they take."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

STEP = 0.01  # seconds between two looks


def marked(name: str, value: str) -> list[int]:
    """Return the processes that were started with this variable."""
    wanted = f"{name}={value}".encode()
    return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if wanted in _environ(pid)]


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def wait_for(condition: Callable[[], object], what: str, limit: float = 60.0) -> None:
    """Wait until something is so.

    :raises TimeoutError: it is not within ``limit`` seconds.
    """
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {limit:g} s")
        time.sleep(STEP)


def kill(pids: Iterable[int]) -> None:
    """End processes at once; fine if they are gone."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def resident_megabytes(pid: int) -> float:
    """Return a process's resident memory in MB (10**6 bytes), shared pages included."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(f"process {pid} tells no Rss")


def processor_seconds(pid: int) -> float:
    """Return the processor time that all threads of a process have taken, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def processor_seconds_with_children(pid: int) -> float:
    """Return the processor time of a process and of its children that have ended and been waited for; 0 if it is gone."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[13:15]
        return processor_seconds(pid) + sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0
