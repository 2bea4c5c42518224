"""ComputeTarget: what every place that runs jobs must offer; knows nothing of frameworks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from muster.core.event import Cursor, Event
from muster.core.finding import Finding
from muster.core.handle import JobHandle
from muster.core.plan import EnvironmentRef, JobPlan
from muster.core.store_access import StoreAccess
from muster.node.assignment import AttemptRecord

Log = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A plan with everything that travels beside it: who owns it, the packed code, the store's access, values of secrets.

    ``past`` are the attempts of this generation that the store knows of, for a target that has released them, and
    ``first_started`` when the first of them was submitted (0: none). ``requested`` is when the user's request came in (seconds
    since the epoch); the preparing phase is counted from it.
    """

    job_id: str
    generation: int
    plan: JobPlan
    archive: Path | None
    access: StoreAccess
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    requested: float = 0.0
    past: tuple[AttemptRecord, ...] = ()
    first_started: float = 0.0


class Session(Protocol):
    """One connection to a target, for watching many jobs."""

    def watch(self, cursors: Mapping[JobHandle, Cursor]) -> AsyncIterator[tuple[JobHandle, Cursor, Event]]:
        """Yield the events of all jobs, each with the cursor after it; ends when every job has ended.

        The last event of a job is always ``event.END``: a job whose nodes died without a word gets one made for it.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class BuiltImage:
    """An image that a target has: its name, its id, and where it is."""

    name: str
    id: str
    location: str


@runtime_checkable
class ImageBuilder(Protocol):
    """The capability of a target whose nodes are containers: it builds images of environments."""

    def build_image(self, environment: EnvironmentRef, log: Log) -> BuiltImage:
        """Build the image of an environment, or find it.

        :raises RequestError: the image is not available; with the reason.
        """
        ...


class ComputeTarget(Protocol):
    """A place that runs jobs. All methods are idempotent."""

    @property
    def name(self) -> str:
        """Name of the target in handles and records."""
        ...

    def prepare(self, plan: JobPlan, log: Log) -> None:
        """Build or find the plan's environment, telling ``log`` line by line.

        :raises RequestError: the environment is not available.
        """
        ...

    def submit(self, submission: Submission) -> JobHandle:
        """Create the job, or return its running attempt, by job id and generation. Starts one node agent on each node.

        Same generation and plan: running is re-attached, completed is taken, failed becomes the next attempt. A higher
        generation ends the older and starts anew. Another plan is never re-attached.

        :raises StaleGeneration: a newer generation owns the job.
        """
        ...

    def find(self, job_id: str) -> JobHandle:
        """Return the handle of a job's newest attempt.

        :raises UnknownRun: no such job here.
        """
        ...

    def session(self) -> Session:
        """Open a connection for watching."""
        ...

    def cancel(self, handle: JobHandle, generation: int, reason: str = "cancelled") -> bool:
        """End the job if ``generation`` still owns it, and wait until nothing of it is left. Says whether it was hit."""
        ...

    def commit(self, handle: JobHandle, access: StoreAccess) -> JobHandle:
        """Start agents that only commit outputs which could not be stored when the run ended."""
        ...

    def release(self, handle: JobHandle) -> None:
        """Release what only waited for someone to take the run's end (exited containers, their network).

        Called once the outcome has been taken. What the store could not take yet is kept, and so is a job that runs.
        """
        ...

    def remove(self, handle: JobHandle) -> None:
        """Delete what the job left on the nodes; refuses a running one.

        :raises TargetError: the job is still running.
        """
        ...

    def check(self) -> tuple[Finding, ...]:
        """Check whether the target can be used, thing by thing; never raises for what a finding can report.

        Where a place has several hosts, ``what`` begins with the host's name: ``gpu-b: clock``.
        """
        ...
