"""The END of attempts that never had agents to write one."""

from __future__ import annotations

from collections.abc import Mapping

from muster.core.event import Event
from muster.core.state import RunState
from muster.core.verdict import Cause, Verdict
from muster.node.agent.finalizer import commit_hint
from muster.node.host.gang_scheduler import QueueEntry
from muster.targets.watch.job_watch import make_end


def cancelled(reason: str) -> Event:
    """Return the END of an attempt that was cancelled before its turn had come."""
    return make_end(RunState.CANCELED, Verdict(cause=Cause.CANCEL, detail=reason))


def unplaced(entry: QueueEntry, reasons: Mapping[str, str]) -> Event:
    """Return the END of an attempt for which too few hosts are left; the first bad one is named."""
    host, reason = next(iter(reasons.items()))
    allocation = next((node for node, allocation in enumerate(entry.allocations) if allocation.host == host), None)
    if entry.is_fixed:
        detail = f"training has completed, but its outputs are still not stored: {reason}"
        verdict = Verdict(cause=Cause.STORE, node=allocation, host=host, detail=detail, hint=commit_hint(entry.job))
        return make_end(RunState.FAILED, verdict)
    return make_end(RunState.FAILED, Verdict(cause=Cause.PREFLIGHT, node=allocation, host=host, detail=reason))
