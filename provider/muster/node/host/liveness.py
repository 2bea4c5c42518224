"""Liveness of a node: its guardian or agent, by process id and start time; ends what both left when they died."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator

from muster.node import processes

TYPE_CHECKING = False  # of ours: typing and dataclasses would be a quarter of a log relay, which every container has
if TYPE_CHECKING:
    from muster.core.paths import NodePaths

BIRTH_TIME = 60.0  # seconds that a guardian may take to write its pid, once there is an assignment for it
BOOT = "boot_id"  # in a node folder: the boot of the host in which its agent was started


def is_alive(folder: str) -> bool:
    """Return whether guardian or agent of a node folder are alive, or may still be about to start."""
    guardian = os.path.join(folder, "guardian.json")
    if os.path.exists(guardian):
        return bool(pids(folder))
    try:
        age = time.time() - os.stat(os.path.join(folder, "assignment.json")).st_mtime
    except OSError:
        return False
    return age < BIRTH_TIME and not was_rebooted(folder)


def pids(folder: str) -> list[int]:
    """Return the process ids of a node's guardian and agent, if they are alive."""
    return [pid for name in ("guardian.json", "agent.json") if (pid := _living_pid(os.path.join(folder, name)))]


def expect_birth(node: NodePaths) -> None:
    """Count the time in which the guardian must write its pid from now on; note the boot of the host."""
    os.utime(node.assignment)
    (node.root / BOOT).write_text(boot_id())


def boot_id() -> str:
    """Return the id of this boot of the host, "" if the kernel has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def was_rebooted(folder: str) -> bool:
    """Return whether the host was booted since the node's agent was started."""
    try:
        with open(os.path.join(folder, BOOT), encoding="ascii") as file:
            return file.read().strip() not in ("", boot_id())
    except OSError:
        return False


@contextlib.contextmanager
def locked_folder(folder: str, *, wait: bool) -> Iterator[bool]:
    """Lock a node folder, so that no process sweeps while another restarts the agent; yield whether it is locked.

    A folder that can't be locked, as it is gone or its file system has no locks, counts as locked.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(os.path.join(folder, "assignment.json"), "r+b"))
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except OSError:
            yield True
        else:
            yield True


def sweep(folder: str) -> bool:
    """Kill every process of the node's attempt that is left on this host; return True once there is none."""
    marker = marker_of(folder)
    left = processes.marked(f"MUSTER_JOB={marker}") if marker else []
    processes.send_signal(left, signal.SIGKILL)
    return not left


def marker_of(folder: str) -> str:
    """Return the value of MUSTER_JOB of the node's attempt; "" if its assignment can't be read."""
    try:
        with open(os.path.join(folder, "assignment.json"), encoding="utf-8") as file:
            assignment = json.load(file)
    except (OSError, ValueError):
        return ""
    from muster.core.attempt import AttemptId

    return AttemptId(assignment["job_id"], assignment["generation"], assignment["attempt"]).marker


def _living_pid(file: str) -> int:
    try:
        with open(file, encoding="utf-8") as text:
            born = json.load(text)
    except (OSError, ValueError):
        return 0
    pid, start = int(born["pid"]), int(born["start"])
    # start times are counted from the boot: after another boot they may agree by accident, and then the boot's id does not
    return pid if start and processes.start_time(pid) == start and not was_rebooted(os.path.dirname(file)) else 0
