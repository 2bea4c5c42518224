"""Finds the uncommitted outputs of completed ranks: their hosts, and the folders of attempts that may have them."""

from __future__ import annotations

from dataclasses import dataclass

from muster.core.errors import TargetError
from muster.targets.claim import Claim
from muster.targets.ssh.queue_client import QueueClient


@dataclass(frozen=True, kw_only=True)
class UncommittedOutputs:
    """Outputs of one node. ``folders``: of attempts on its host, the newest first; any of them may have the outputs."""

    host: str
    folders: tuple[str, ...]


async def uncommitted_outputs(claim: Claim, queue: QueueClient) -> tuple[UncommittedOutputs, ...]:
    """Return where the outputs of a job's ranks may lie: with their attempt, or a later one that should commit them.

    :raises TargetError: no entry of the job has them.
    """
    entries = [e for e in await queue.attempts(claim.job_id) if e.generation == claim.generation and e.attempt <= claim.attempt]
    entries.sort(key=lambda entry: -entry.attempt)
    trained = next((number for number, entry in enumerate(entries) if not entry.is_fixed), -1)
    if trained < 0 or not all(node.folder for node in entries[trained].allocations):
        raise TargetError(f"nobody knows where run {claim.job_id} left its outputs; clear the task to train anew")
    nodes = zip(*(entry.allocations for entry in entries[: trained + 1] if entry.allocations), strict=True)
    return tuple(UncommittedOutputs(host=node[-1].host, folders=tuple(p.folder for p in node if p.folder)) for node in nodes)
