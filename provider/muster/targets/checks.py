"""Findings about a host, shared by all targets: clock, Python, disk, GPUs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from muster.core.finding import Finding
from muster.node.preflight.facts import GPU_QUERY, MAX_CLOCK_SKEW, Gpu, gpus_of

OLDEST_PYTHON = (3, 10)  # of nodes
LOW_DISK = 1 << 30  # bytes; an environment with a framework alone takes more
NOTED_SKEW = 2.0  # seconds; more makes the times of log lines misleading, though nothing fails by it
LIMIT = 10.0  # seconds for what is asked of one host
NVIDIA_SMI = GPU_QUERY  # the words to run on a host; what they print is for `gpus`

_SET_CLOCK = "set its clock and keep it set (chrony or systemd-timesyncd)"


def clock(what: str, there: float, asked: float, answered: float) -> Finding:
    """Judge a host's clock: what it showed, and what ours showed before and after it was asked; seconds since the epoch.

    What the question itself took counts for the host.
    """
    offset = there - (asked + answered) / 2
    certain = max(0.0, abs(offset) - (answered - asked) / 2)
    if certain <= NOTED_SKEW:
        return Finding(what=what, fine=True, text="as this machine's")
    way = "ahead of" if offset > 0 else "behind"
    text = f"{abs(offset):.0f} s {way} this machine's"
    return Finding(what=what, fine=certain <= MAX_CLOCK_SKEW, text=text, remedy=_SET_CLOCK)


def python(what: str, output: str, path: str = "python3") -> Finding:
    """Judge a host's Python by what ``python3 --version`` said, "" if there is none."""
    found = re.search(r"(\d+)\.(\d+)(\.\d+)?", output)
    remedy = "install Python 3.10 or newer there, or name one by `python` in the connection"
    if found is None:
        return Finding(
            what=what, fine=False, text=f"no {path} there" + (f": {_line(output)}" if output.strip() else ""), remedy=remedy
        )
    fine = (int(found[1]), int(found[2])) >= OLDEST_PYTHON
    return Finding.of(what, fine, f"{path} is {found[0]}" + ("" if fine else ", too old for Muster's agent"), remedy)


def disk(what: str, free: int, folder: str, remedy: str = "make room there, or set another root in the connection") -> Finding:
    """Judge the room below a folder, in bytes."""
    return Finding.of(what, free >= LOW_DISK, f"{free >> 20} MiB free below {folder}", remedy)


def gpus(what: str, output: str, wanted: int | Sequence[str]) -> Finding:
    """Judge a host's GPUs by what :data:`NVIDIA_SMI` printed; ``wanted`` is how many or which jobs may use, 0 for none."""
    found = gpus_of(output)
    missing = _missing(found, wanted)
    drivers = ", ".join(sorted({gpu.driver for gpu in found}))
    kinds = ", ".join(dict.fromkeys(gpu.name for gpu in found))
    text = f"{len(found)} x {kinds}, driver {drivers}" if found else f"none{f': {_line(output)}' if output.strip() else ''}"
    remedy = "install the NVIDIA driver there, or correct `gpus` in the connection"
    return Finding.of(what, not missing, text + (f"; {missing}" if missing else ""), remedy)


def _missing(found: Sequence[Gpu], wanted: int | Sequence[str]) -> str:
    if isinstance(wanted, int):
        return f"the connection gives it {wanted}" if len(found) < wanted else ""
    absent = [name for name in wanted if not any(gpu.matches(name) for gpu in found)]
    return f"the connection gives it {', '.join(wanted)}, but there is no {', '.join(absent)}" if absent else ""


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
