"""What became of a job for which sbatch gave no number: refused, not taken just now, or nobody knows."""

from __future__ import annotations

import re

from muster.core.errors import MusterError, RequestError, TargetError

TAKEN = "taken"
REFUSED = "refused"  # the request is wrong, however often it is tried
FULL = "full"  # not taken, but later it may be: queues and limits that others fill
UNKNOWN = "unknown"  # the answer did not come: Slurm may have the job all the same, or still take it

TIMED_OUT = 124
_NO_ANSWER = re.compile(
    r"contact slurm controller|controller not responding|timed out|connection (refused|reset)|connection failure|"
    r"(send|receive|shutdown) failure|zero bytes were transmitted|unexpected message received|authentication error|"
    r"no route to host|network is unreachable|broken pipe",
    re.IGNORECASE,
)
_FULL = re.compile(
    r"submit_?jobs?|temporarily|queue full|standby mode|I/O error writing|establish a configuration source", re.IGNORECASE
)


def outcome_of(code: int, said: str) -> str:
    """Give what came of a call of sbatch, from its exit code (:data:`TIMED_OUT`, negative for a signal) and what it said."""
    if code == 0:
        return TAKEN
    if code == TIMED_OUT or code < 0 or _NO_ANSWER.search(said):
        return UNKNOWN
    return FULL if _FULL.search(said) else REFUSED


def error_of(job_id: str, outcome: str, said: str) -> MusterError:
    """Give the error for a job that sbatch gave no number for; without what stands before it in every line it said."""
    why = said.replace("sbatch: error: ", "").strip() or "sbatch did not say why"
    if outcome == REFUSED:
        return RequestError(f"Slurm refuses run {job_id}: {why}")
    if outcome == FULL:
        return TargetError(f"Slurm does not take run {job_id} now: {why}; submit it again later")
    doubt = f"Slurm did not say whether it has taken run {job_id}: {why}"
    return TargetError(f"{doubt}; submit it again: a job that it has taken is found by its name")
