"""Why Slurm ends a job, asked on one of its nodes: preempted, requeued, out of time, a lost node, or cancelled."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

from muster.core.verdict import Cause

ASK_TIME = 10.0  # seconds for Slurm to answer
WIDTHS = {"State": 24, "RestartCnt": 8, "Reason": 64, "PreemptTime": 32, "EndTime": 32, "NodeList": 200}
NEVER = frozenset({"", "N/A", "NONE", "Unknown", "(null)"})
OUT_OF_TIME = "TimeLimit"
LOST = re.compile(r"Node failure on (\S+)")
LOST_NODE = ("NodeDown", "NODE_FAIL")


@dataclass(frozen=True, kw_only=True)
class SqueueRow:
    """What Slurm says of a job just now. ``preempted``: when, "" if it is not; ``end``: when its time is over, as text."""

    state: str
    restarts: int
    reason: str
    preempted: str = ""
    end: str = ""


def ask(job: str) -> SqueueRow | None:
    """Ask Slurm about a job; None if it can't be asked from here."""
    fields = ",".join(f"{name}:{width}" for name, width in WIDTHS.items())
    argv = ["squeue", "--noheader", "--states=all", f"--jobs={job}", f"--Format={fields}"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=ASK_TIME, check=False, env=clean(os.environ))
    except (OSError, subprocess.TimeoutExpired):
        return None
    line = done.stdout.split("\n", maxsplit=1)[0]
    return parse_row(line) if done.returncode == 0 and line.strip() else None


def parse_row(line: str) -> SqueueRow:
    """Read the line of a job."""
    cells, at = {}, 0
    for name, width in WIDTHS.items():
        cells[name], at = line[at : at + width].strip(), at + width
    known = {name: "" if cell in NEVER else cell for name, cell in cells.items()}
    restarts = int(known["RestartCnt"] or 0)
    return SqueueRow(
        state=known["State"], restarts=restarts, reason=known["Reason"], preempted=known["PreemptTime"], end=known["EndTime"]
    )


def wish(job: str, restarts: int, told: SqueueRow | None, said: str = "") -> dict[str, str]:
    """Give the end that the agents are to bring the run to: cause and reason.

    ``restarts``: those before this start; ``said``: what the batch job's own output has, where srun names a lost node.
    """
    if told is None:
        return _wish(Cause.NODE, f"Slurm ends job {job} (SIGTERM) and can't be asked why from its node")
    again = " and queued again" if told.restarts > restarts else ""
    if told.preempted:
        return _wish(Cause.NODE, f"Slurm job {job} was preempted{again}")
    lost = LOST.findall(said)
    if lost or told.reason in LOST_NODE or told.state in LOST_NODE:
        which = f"lost node {lost[-1]}" if lost else "lost a node"
        return _wish(Cause.NODE, f"Slurm job {job} {which}{' and was queued again' if again else ''}")
    if again:
        return _wish(Cause.NODE, f"Slurm job {job} was ended{again}")
    if told.reason == OUT_OF_TIME:
        return _wish(Cause.DEADLINE, f"the time limit of Slurm job {job} was reached; all ranks were ended")
    return _wish(Cause.CANCEL, f"Slurm job {job} was cancelled outside Muster (scancel)")


def _wish(cause: Cause, reason: str) -> dict[str, str]:
    return {"cause": cause.value, "reason": reason}


def seconds_left(told: SqueueRow | None) -> float | None:
    """Give how long a running job may go on; None for as long as it likes."""
    if told is None or not told.end:
        return None
    try:
        return time.mktime(time.strptime(told.end, "%Y-%m-%dT%H:%M:%S")) - time.time()
    except (ValueError, OverflowError):
        return None


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Give an environment without the variables by which people change what Slurm's commands print."""
    changing = ("SQUEUE_", "SACCT_", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN", "SBATCH_", "SCANCEL_")
    return {name: value for name, value in environ.items() if not name.startswith(changing)}
