"""Child processes of a script, each with its own process group: started with a log file, ended whole, never left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PR_SET_PDEATHSIG = 1
KILL_LIMIT = 10.0  # seconds for the kernel to do it


Child = subprocess.Popen[bytes]


@contextmanager
def running(argv: list[str], log: Path, env: Mapping[str, str], grace: float = 15.0) -> Iterator[Child]:
    """Run a command beside us, what it says going to ``log``; its whole process group is ended on the way out."""
    with ending(grace) as family:
        family.append(start(argv, log, env))
        yield family[0]


@contextmanager
def ending(grace: float = 15.0) -> Iterator[list[Child]]:
    """Yield a list for children; on the way out the groups of all of them are ended: TERM, ``grace`` seconds, KILL."""
    family: list[Child] = []
    try:
        yield family
    finally:
        end(family, grace)


def end(family: list[Child], grace: float = 15.0) -> None:
    """End children with their whole groups; returns when none is left."""
    _signal_all(family, signal.SIGTERM)
    if not wait_until(lambda: _are_gone(family), grace):
        _signal_all(family, signal.SIGKILL)
        wait_until(lambda: _are_gone(family), KILL_LIMIT)


def start(argv: list[str], log: Path, env: Mapping[str, str]) -> Child:
    """Start a command in a session of its own, so that Ctrl-C reaches us first; it gets TERM should we be killed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None)
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),  # noqa: PLW1509 - one call, no lock
        )


def run(argv: list[str], log: Path, env: Mapping[str, str]) -> int:
    """Run a command to its end and give its exit code (``-signal`` if it was killed)."""
    with running(argv, log, env) as child:
        return child.wait()


def wait_until(condition: Callable[[], bool], limit: float, every: float = 0.1) -> bool:
    """Return whether a condition came true within ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log, for an error message."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-lines:])


def _are_gone(family: list[Child]) -> bool:
    for child in family:
        child.poll()
    return not any([_signal_group(child.pid, 0) for child in family])


def _signal_all(family: list[Child], number: int) -> None:
    for child in family:
        _signal_group(child.pid, number)


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
