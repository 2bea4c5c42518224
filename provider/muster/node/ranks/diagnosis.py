"""Diagnoses how a rank ended: its exit, the exception line of its output, out of memory or not, and what to do about it."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass

from muster.node.ranks.supervisor import SPAWNER, RankProcess

TRACEBACK = "Traceback (most recent call last):"
MAX_DETAIL = 400  # characters of an exception line that go into a verdict

_EXCEPTION = re.compile(
    r"^(?:\[rank\d+\]:\s*)?(?P<line>(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Timeout)\b.*)$"
)
_FAILED_LINE = re.compile(r"\b(error|fatal|failed|can't|cannot|not found|no such|killed)\b", re.IGNORECASE)
_OUT_OF_MEMORY = re.compile(r"out of memory|OutOfMemoryError|MemoryError|Cannot allocate memory|std::bad_alloc", re.IGNORECASE)
_PORT_TAKEN = re.compile(r"address already in use|EADDRINUSE", re.IGNORECASE)
_NO_MODULE = re.compile(r"No module named '([\w.]+)'")

# names under which a module is published, where they differ from the module's own
_PACKAGES = {"sklearn": "scikit-learn", "cv2": "opencv-python", "PIL": "pillow", "yaml": "pyyaml", "skimage": "scikit-image"}


@dataclass(frozen=True, kw_only=True)
class RankExit:
    """Exit of a rank; with the reason if it failed by itself. Times in seconds since the epoch.

    ``decides``: its failure decides the run. ``victim``: it was ended because of another failure. ``detail`` is the exception
    line of its output.
    """

    node: int
    rank: int
    exit_code: int | None
    ended: float
    signal: int | None = None
    local_rank: int = 0
    decides: bool = True
    pid: int = 0
    started: float = 0.0
    victim: bool = False
    detail: str = ""
    hint: str = ""
    out_of_memory: bool = False
    port_taken: bool = False

    @property
    def failed(self) -> bool:
        """Return whether the rank ended otherwise than with exit code 0."""
        return self.exit_code != 0

    @property
    def is_conclusive(self) -> bool:
        """Return whether the exit is by a signal or has a reason; MPI libraries exit without one when another rank is gone."""
        return self.signal is not None or bool(self.detail)


def diagnose(process: RankProcess, node: int, kernel_kills: int) -> RankExit:
    """Return how a rank ended, and why if it failed by itself.

    ``kernel_kills``: how many processes the kernel had ended for lack of memory when the ranks were started.
    """
    tail, end = list(process.tail), process.exit
    in_python = process.spec.rank != SPAWNER or TRACEBACK in tail
    line_of = exception_line if in_python else first_words
    detail = (end.why or line_of(tail)) if end is not None and process.failed else ""
    killed = end is not None and end.signal == signal.SIGKILL and count_kernel_kills() > kernel_kills
    return RankExit(
        node=node,
        rank=process.spec.rank,
        local_rank=process.spec.local_rank,
        decides=process.spec.decides,
        pid=process.pid,
        started=process.started,
        ended=time.time() if end is None else end.at,
        exit_code=None if end is None else end.exit_code,
        signal=None if end is None else end.signal,
        victim=process.victim,
        detail=detail,
        hint=hint(detail),
        out_of_memory=process.failed and (killed or out_of_memory(tail)),
        port_taken=process.failed and port_taken(tail),
    )


def exception_line(tail: Iterable[str]) -> str:
    """Return the last line that names an exception; else the last that speaks of an error; else ""."""
    lines = [line.strip() for line in tail]
    for line in reversed(lines):
        match = _EXCEPTION.match(line)
        if match:
            return match["line"][:MAX_DETAIL]
    return next((line[:MAX_DETAIL] for line in reversed(lines) if _FAILED_LINE.search(line)), "")


def first_words(tail: Iterable[str]) -> str:
    """Return the first paragraph of a program's output, without rules and frames, as one line."""
    paragraph: list[str] = []
    for line in (line.strip().strip("-=*").strip() for line in tail):
        if line:
            paragraph.append(line)
        elif paragraph:
            break
    return " ".join(paragraph)[:MAX_DETAIL]


def out_of_memory(tail: Iterable[str]) -> bool:
    """Return whether the output says that memory, of the host or of a GPU, ran out."""
    return any(_OUT_OF_MEMORY.search(line) for line in tail)


def port_taken(tail: Iterable[str]) -> bool:
    """Return whether the output says that another process took the port between preflight and start."""
    return any(_PORT_TAKEN.search(line) for line in tail)


def hint(detail: str) -> str:
    """Return what to do about an exception line, "" if nothing is known."""
    missing = _NO_MODULE.search(detail)
    if missing:
        module = missing[1].split(".")[0]
        return f"add {_PACKAGES.get(module, module)!r} to pip_packages"
    return ""


def count_kernel_kills() -> int:
    """Return how many processes the kernel has ended for lack of memory since boot."""
    try:
        with open("/proc/vmstat", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0
