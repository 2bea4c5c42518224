"""JobHandle: the small reference by which a job is found again; holds no hosts and no secrets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from muster.core.attempt import AttemptId

HANDLE_VERSION = 1


class SubmitResult(str, Enum):
    """Outcome of a submit: launched, attached, or completed before."""

    LAUNCHED = "launched"
    ATTACHED = "attached"  # it was running, or waiting to
    COMPLETED = "completed"  # its result is taken; nothing is trained


@dataclass(frozen=True, kw_only=True)
class JobHandle:
    """One attempt of one generation of a job on a target."""

    job_id: str
    generation: int
    attempt: int
    target: str
    plan_digest: str
    store: str
    found: SubmitResult = SubmitResult.LAUNCHED
    version: int = HANDLE_VERSION

    @property
    def id(self) -> AttemptId:
        """Return the attempt's name."""
        return AttemptId(self.job_id, self.generation, self.attempt)
