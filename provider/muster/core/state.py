"""The states of a run and which of them are final."""

from __future__ import annotations

from enum import Enum


class RunState(str, Enum):
    """State of a run, in order; ``NotResponding`` while the nodes do not answer."""

    QUEUED = "Queued"
    PREPARING = "Preparing"
    STARTING = "Starting"
    RUNNING = "Running"
    FINALIZING = "Finalizing"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELED = "Canceled"
    NOT_RESPONDING = "NotResponding"

    @property
    def final(self) -> bool:
        """Return whether a run in this state has ended."""
        return self in (RunState.COMPLETED, RunState.FAILED, RunState.CANCELED)
