"""Ends that no agent could write: of attempts that never started, and of nodes that were lost without a word."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from muster.core.codec import to_data
from muster.core.event import END, Event
from muster.core.state import RunState
from muster.core.verdict import Cause, Verdict
from muster.node.agent.finalizer import commit_hint
from muster.node.host.gang_scheduler import QueueEntry


def cancelled(reason: str) -> Event:
    """Give the end of an attempt that was cancelled before its turn had come."""
    return end_of(RunState.CANCELED, Verdict(cause=Cause.CANCEL, detail=reason))


def unplaced(entry: QueueEntry, reasons: Mapping[str, str]) -> Event:
    """Give the end of an attempt for which too few hosts are left; the first bad one is named."""
    host, reason = next(iter(reasons.items()))
    allocation = next((node for node, allocation in enumerate(entry.allocations) if allocation.host == host), None)
    if entry.is_fixed:
        detail = f"training has completed, but its outputs are still not stored: {reason}"
        verdict = Verdict(cause=Cause.STORE, node=allocation, host=host, detail=detail, hint=commit_hint(entry.job))
        return end_of(RunState.FAILED, verdict)
    return end_of(RunState.FAILED, Verdict(cause=Cause.PREFLIGHT, node=allocation, host=host, detail=reason))


def lost(node: int, host: str, how: str) -> Verdict:
    """Give the verdict on a run whose node was lost without a word."""
    return Verdict(cause=Cause.NODE, node=node, host=host, detail=f"node {node} ({host}) was lost: {how}; all ranks were ended")


def end_of(state: RunState, verdict: Verdict) -> Event:
    """Give an END event."""
    data: dict[str, Any] = {"state": state.value, "verdict": to_data(verdict), "manifest": None, "digest": None}
    return Event(time=time.time(), kind=END, node=0, data={**data, "uri": "", "metrics": {}, "files": 0})
