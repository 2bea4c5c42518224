"""Interprets what Slurm's commands print: why Slurm ends a job, and whether sbatch has taken one."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from muster.core.verdict import Cause
from muster.node.cancel_request import CancelRequest

ASK_TIME = 10.0  # seconds for Slurm to answer
WIDTHS = {"State": 24, "RestartCnt": 8, "Reason": 64, "PreemptTime": 32, "EndTime": 32, "NodeList": 200}
NEVER = frozenset({"", "N/A", "NONE", "Unknown", "(null)"})
OUT_OF_TIME = "TimeLimit"
LOST = re.compile(r"Node failure on (\S+)")
LOST_NODE = ("NodeDown", "NODE_FAIL")
CHANGES_OUTPUT = ("SQUEUE_", "SACCT_", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN", "SBATCH_", "SCANCEL_")

TIMED_OUT = 124  # exit code of a command that did not end in time
_NO_ANSWER = re.compile(
    r"contact slurm controller|controller not responding|timed out|connection (refused|reset)|connection failure|"
    r"(send|receive|shutdown) failure|zero bytes were transmitted|unexpected message received|authentication error|"
    r"no route to host|network is unreachable|broken pipe",
    re.IGNORECASE,
)
_FULL = re.compile(
    r"submit_?jobs?|temporarily|queue full|standby mode|I/O error writing|establish a configuration source", re.IGNORECASE
)


def without_output_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables by which people change what Slurm's commands print."""
    return {name: value for name, value in environ.items() if not name.startswith(CHANGES_OUTPUT)}


# -- why Slurm ends a job, asked on one of its nodes


@dataclass(frozen=True, kw_only=True)
class SqueueRow:
    """A job as squeue shows it now. ``preempted``: when, "" if it is not; ``end``: when its time is over, as text."""

    state: str
    restarts: int
    reason: str
    preempted: str = ""
    end: str = ""


def ask(job: str) -> SqueueRow | None:
    """Ask Slurm about a job; return None if Slurm can't be asked from here."""
    fields = ",".join(f"{name}:{width}" for name, width in WIDTHS.items())
    argv = ["squeue", "--noheader", "--states=all", f"--jobs={job}", f"--Format={fields}"]
    env = without_output_settings(os.environ)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=ASK_TIME, check=False, env=env)
    except (OSError, subprocess.TimeoutExpired):
        return None
    line = done.stdout.split("\n", maxsplit=1)[0]
    return parse_row(line) if done.returncode == 0 and line.strip() else None


def parse_row(line: str) -> SqueueRow:
    """Parse the line of a job."""
    cells, at = {}, 0
    for name, width in WIDTHS.items():
        cells[name], at = line[at : at + width].strip(), at + width
    known = {name: "" if cell in NEVER else cell for name, cell in cells.items()}
    return SqueueRow(
        state=known["State"],
        restarts=int(known["RestartCnt"] or 0),
        reason=known["Reason"],
        preempted=known["PreemptTime"],
        end=known["EndTime"],
    )


def end_reason(job: str, restarts: int, row: SqueueRow | None, output: str = "") -> CancelRequest:
    """Return why the agents are to end the run.

    ``restarts``: those before this start; ``output``: the batch job's own, where srun names a lost node.
    """
    if row is None:
        return _cancel(Cause.NODE, f"Slurm ends job {job} (SIGTERM) and can't be asked why from its node")
    again = " and queued again" if row.restarts > restarts else ""
    if row.preempted:
        return _cancel(Cause.NODE, f"Slurm job {job} was preempted{again}")
    lost = LOST.findall(output)
    if lost or row.reason in LOST_NODE or row.state in LOST_NODE:
        which = f"lost node {lost[-1]}" if lost else "lost a node"
        return _cancel(Cause.NODE, f"Slurm job {job} {which}{' and was queued again' if again else ''}")
    if again:
        return _cancel(Cause.NODE, f"Slurm job {job} was ended{again}")
    if row.reason == OUT_OF_TIME:
        return _cancel(Cause.DEADLINE, f"the time limit of Slurm job {job} was reached; all ranks were ended")
    return _cancel(Cause.CANCEL, f"Slurm job {job} was cancelled outside Muster (scancel)")


def _cancel(cause: Cause, reason: str) -> CancelRequest:
    return CancelRequest(cause=cause, reason=reason)


def seconds_left(row: SqueueRow | None) -> float | None:
    """Return how long a running job may go on; None for a job without a time limit."""
    if row is None or not row.end:
        return None
    try:
        return time.mktime(time.strptime(row.end, "%Y-%m-%dT%H:%M:%S")) - time.time()
    except (ValueError, OverflowError):
        return None


# -- whether sbatch has taken a job, asked on the login node


class SubmitOutcome(str, Enum):
    """Outcome of one sbatch call."""

    TAKEN = "taken"
    REFUSED = "refused"  # the request is wrong, however often it is tried
    FULL = "full"  # not taken, but later it may be: queues and limits that others fill
    UNKNOWN = "unknown"  # the answer did not come: Slurm may have the job all the same, or still take it


def submit_outcome(code: int, message: str) -> SubmitOutcome:
    """Return what came of a call of sbatch, by its exit code (:data:`TIMED_OUT`, negative for a signal) and its message."""
    if code == 0:
        return SubmitOutcome.TAKEN
    if code == TIMED_OUT or code < 0 or _NO_ANSWER.search(message):
        return SubmitOutcome.UNKNOWN
    return SubmitOutcome.FULL if _FULL.search(message) else SubmitOutcome.REFUSED
