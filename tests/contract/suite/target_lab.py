"""TargetLab: what the contract suite asks of a target: jobs go in, events and records come out, and its nodes can be harmed."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from lab import LIMIT, JobLab, lines
from muster.core.event import Cursor, Event
from muster.core.handle import JobHandle
from muster.core.manifest import Manifest
from muster.core.plan import JobPlan
from muster.core.verdict import Verdict
from muster.runner import Outcome
from muster.store.run_store import RunStore
from muster.targets.contract import ComputeTarget
from store_server import Store, pieces_of

Jobs = TypeVar("Jobs", bound=JobLab)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run that has ended: how, and every event on the way."""

    outcome: Outcome
    events: list[Event]

    @property
    def verdict(self) -> Verdict:
        """Why it did not complete."""
        assert self.outcome.verdict is not None, f"the run is {self.outcome.state.value} and has no verdict"
        return self.outcome.verdict

    @property
    def why(self) -> str:
        """Return how it ended, for a test that expected something else."""
        return f"{self.outcome.state.value}: {self.outcome.verdict.summary() if self.outcome.verdict else 'no verdict'}"

    def lines(self, rank: int | None = None) -> list[str]:
        """Return what ranks printed, of one rank or of all."""
        return lines(self.events, rank)


@dataclass
class TargetLab(ABC, Generic[Jobs]):
    """A target under test and a store that its nodes reach, both in ``jobs``. ``folder`` is the test's own, on this machine."""

    jobs: Jobs
    folder: Path
    running: dict[str, JobHandle] = field(default_factory=dict)  # by job id, what nobody has seen the end of
    start_time = 6.0  # seconds within which ranks have started for sure, on a machine that does nothing else
    small_disk_node = 0  # the node that a small disk is given to; plans for it have this one last

    # -- what every target has its own way for

    @abstractmethod
    def launches(self, handle: JobHandle) -> int:
        """Count how often a job that runs was given nodes."""

    @abstractmethod
    def left(self, handle: JobHandle) -> list[str]:
        """Name what is left of a job on the target: processes that live, and whatever else holds its nodes."""

    @abstractmethod
    def short_of_memory(self, plan: JobPlan, limit: int) -> JobPlan:
        """Return the plan with ranks that can't have more than ``limit`` bytes of memory."""

    @abstractmethod
    def small_disk(self, plan: JobPlan, size: int) -> JobPlan:
        """Return the last node of a plan a disk of ``size`` bytes; to be called before the submit."""

    @abstractmethod
    def skew_clock(self, plan: JobPlan, node: int, seconds: int) -> JobPlan:
        """Set the clock of a plan's node wrong; to be called before the submit."""

    @abstractmethod
    def lose_node(self, handle: JobHandle, node: int) -> None:
        """Take a node away from a running job, without a word to its agents."""

    @abstractmethod
    def let_go(self, handle: JobHandle) -> None:
        """Make the file ``go`` in the work folder of every node, for ranks that wait for it."""

    def connection_lost(self) -> AbstractContextManager[None]:
        """Cut every connection from here to the target; inside no new one is made, and one has been tried when it begins."""
        raise AssertionError(f"{self.target.name} has no connection to lose")

    def close(self) -> None:
        """End whatever a failed test left, and undo what was harmed."""
        try:
            for handle in self.running.values():
                self.target.cancel(handle, handle.generation, "end of the test")
                self.target.release(handle)
        finally:
            self.jobs.close()

    # -- what is the same for all

    @property
    def store(self) -> Store:
        return self.jobs.store

    @property
    def target(self) -> ComputeTarget:
        return self.jobs.target

    def submit(self, plan: JobPlan, **options: Any) -> JobHandle:
        """Prepare the target and submit a plan; see :meth:`JobLab.submission`."""
        handle = self.jobs.submit(plan, **options)
        self.running[handle.job_id] = handle
        return handle

    def run(self, plan: JobPlan) -> Ended:
        """Submit a plan and wait for its end; see :meth:`finish`."""
        return self.finish(self.submit(plan))

    def finish(self, handle: JobHandle, limit: float = LIMIT) -> Ended:
        """Wait for a run's end, let go of it, and see that nothing of it is left on the target."""
        ended = self.wait(handle, limit)
        self.target.release(handle)
        left = self.left(handle)
        assert left == [], f"left on the target: {', '.join(left)}"
        self.running.pop(handle.job_id, None)
        return ended

    def wait(self, handle: JobHandle, limit: float = LIMIT) -> Ended:
        """Wait for a run's end, watching from its beginning."""
        outcome, events = self.jobs.wait(handle, limit)
        return Ended(outcome=outcome, events=events)

    def watch_lines(self, handle: JobHandle, count: int, cursor: Cursor | None = None) -> tuple[list[Event], Cursor]:
        """Watch until the ranks together have printed ``count`` lines."""
        return self.jobs.watch(handle, cursor, lambda events: len(lines(events)) >= count)

    def record(self, handle: JobHandle) -> dict[str, Any]:
        """Return the run's record in the store."""
        return self.jobs.record(handle)

    def recorded_lines(self, handle: JobHandle, node: int) -> list[str]:
        """Return the lines of one node that the record has."""
        stored = self._run_store.events(handle.job_id, handle.generation, handle.attempt, node, 0)
        return lines([event for _, event in stored])

    def manifest(self, handle: JobHandle) -> Manifest | None:
        """Return what the run committed."""
        return self._run_store.manifest(handle.job_id, handle.generation)

    def stored(self, handle: JobHandle, path: str) -> RunFile:
        """Return one file of the run as the store has it."""
        return RunFile(self._run_store, handle.job_id, path)

    @cached_property
    def _run_store(self) -> RunStore:
        return self.store.open()


@dataclass(frozen=True)
class RunFile:
    """A file of a run in the store."""

    store: RunStore
    job_id: str
    path: str

    def content(self) -> bytes:
        """Read it whole."""
        return b"".join(pieces_of(self.store, self.job_id, self.path))

    def sha256(self) -> str:
        """Read it piece by piece and give the digest of what was read."""
        hasher = hashlib.sha256()
        for piece in pieces_of(self.store, self.job_id, self.path):
            hasher.update(piece)
        return hasher.hexdigest()
