"""Claim: who owns a job on a target; the rule that makes submit exactly-once, as a pure function over it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from muster.core.attempt import AttemptId
from muster.core.codec import canonical, from_data
from muster.core.errors import RequestError, StaleGeneration
from muster.core.event import Event
from muster.core.handle import JobHandle, SubmitResult
from muster.core.plan import JobPlan
from muster.core.state import RunState
from muster.core.verdict import Cause
from muster.node.assignment import Assignment, AttemptRecord
from muster.targets.contract import Submission

CLAIM_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The owner of a job.

    ``first_started``: of the generation's first attempt, from which its deadline counts. ``commit``: the ranks completed in an
    earlier attempt, this one only stores what they left.
    """

    job_id: str
    generation: int
    attempt: int
    plan_digest: str
    store: str
    nodes: int
    submitted: float
    first_started: float
    grace: float = 10.0
    history: tuple[AttemptRecord, ...] = ()
    commit: bool = False
    version: int = CLAIM_VERSION

    @classmethod
    def read(cls, path: Path) -> Claim | None:
        """Read a claim file; None if there is none."""
        try:
            return from_data(cls, json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    @property
    def id(self) -> AttemptId:
        """Return the attempt's name."""
        return AttemptId(self.job_id, self.generation, self.attempt)

    def deadline(self, max_run_duration: float) -> float:
        """Return the attempt's deadline, in seconds since the epoch; a commit is not part of the run's duration."""
        return (self.submitted if self.commit else self.first_started) + max_run_duration

    def handle(self, target: str, found: SubmitResult) -> JobHandle:
        """Return the handle of the claimed attempt."""
        return JobHandle(
            job_id=self.job_id,
            generation=self.generation,
            attempt=self.attempt,
            target=target,
            plan_digest=self.plan_digest,
            store=self.store,
            found=found,
        )

    def assignment(self, plan: JobPlan, node: int, *, requested: float, **place: Any) -> Assignment:
        """Return a node's assignment; ``location`` are the fields that only the target knows, and those that it knows better.

        ``requested``: when the user's request came in, 0.0 if nobody knows.
        """
        known: dict[str, Any] = {
            "deadline": self.deadline(plan.limits.max_run_duration),
            "requested": requested or self.submitted,
            "submitted": self.submitted,
        }
        return Assignment(
            job_id=self.job_id,
            generation=self.generation,
            attempt=self.attempt,
            node=node,
            store=self.store,
            plan=plan,
            plan_digest=self.plan_digest,
            history=self.history,
            commit_only=self.commit,
            **{**known, **place},
        )

    def record(self, end: Event | None) -> AttemptRecord:
        """Return how the claimed attempt went; one that ended without a word has failed."""
        if end is None:
            return AttemptRecord(attempt=self.attempt, started=self.submitted, state=RunState.FAILED.value)
        state, verdict = end.data["state"], end.data["verdict"]
        return AttemptRecord(attempt=self.attempt, started=self.submitted, ended=end.time, state=state, verdict=verdict)

    def write(self, path: Path) -> None:
        """Replace the claim file as one."""
        scratch = path.with_suffix(".new")
        scratch.write_bytes(canonical(self))
        os.replace(scratch, path)


class AttemptStatus(str, Enum):
    """Status of the attempt that the claim names."""

    RUNNING = "running"
    COMPLETED = "completed"
    UNCOMMITTED = "uncommitted"  # the ranks completed, the outputs are not stored yet
    ENDED = "ended"  # failed, cancelled or lost: another attempt may follow


class Step(str, Enum):
    """Next step of a submit."""

    LAUNCH = "launch"  # a new generation: attempt 1
    ATTACH = "attach"
    REUSE = "reuse"
    RETRY = "retry"  # the next attempt, resumed from committed checkpoints
    COMMIT = "commit"  # the next attempt only stores what the last one left
    REPLACE = "replace"  # end what runs, then the next attempt
    SUPERSEDE = "supersede"  # end what runs, then a new generation


def next_step(claim: Claim | None, status: AttemptStatus | None, generation: int, plan_digest: str) -> Step:
    """Decide what a submit does, from the claim and what became of its attempt.

    :raises StaleGeneration: a newer generation owns the job.
    :raises RequestError: the generation is committed, with another plan.
    """
    if claim is None or status is None:
        return Step.LAUNCH
    if claim.generation > generation:
        raise StaleGeneration(
            f"job {claim.job_id} is owned by generation {claim.generation}; generation {generation} is older and must not start"
        )
    if claim.generation < generation:
        return Step.SUPERSEDE
    if claim.plan_digest != plan_digest:
        if status is AttemptStatus.COMPLETED:
            raise committed_otherwise(claim.job_id, generation)
        return Step.REPLACE
    return {
        AttemptStatus.RUNNING: Step.ATTACH,
        AttemptStatus.COMPLETED: Step.REUSE,
        AttemptStatus.UNCOMMITTED: Step.COMMIT,
        AttemptStatus.ENDED: Step.RETRY,
    }[status]


def status_of(*, running: bool, end: Event | None, commit: bool) -> AttemptStatus:
    """Return the status of an attempt, from whether it lives and the END event of its leader's log.

    ``commit``: it only stores what an earlier one left; that is still to be stored then, whatever the attempt died of.
    """
    if running:
        return AttemptStatus.RUNNING
    if end is not None and end.data["state"] == RunState.COMPLETED.value:
        return AttemptStatus.COMPLETED
    verdict = end.data["verdict"] if end is not None else None
    is_left = commit or (verdict is not None and verdict["cause"] == Cause.STORE.value)
    return AttemptStatus.UNCOMMITTED if is_left else AttemptStatus.ENDED


def next_claim(claim: Claim | None, end: Event | None, step: Step, submission: Submission, digest: str) -> Claim:
    """Return the claim of the attempt that follows ``claim``, whose attempt ended with ``end``.

    Within a generation attempts are counted on and the deadline stays that of the first; a target that has released them goes
    on where the store's record (``submission.past``) ends.
    """
    now = time.time()
    same = claim if claim is not None and step in (Step.RETRY, Step.COMMIT, Step.REPLACE) else None
    history = (*same.history, same.record(end)) if same else submission.past
    return Claim(
        job_id=submission.job_id,
        generation=submission.generation,
        attempt=max((past.attempt for past in history), default=0) + 1,
        plan_digest=digest,
        store=submission.plan.store,
        nodes=len(submission.plan.nodes),
        submitted=now,
        first_started=same.first_started if same else submission.first_started or now,
        grace=submission.plan.limits.grace,
        history=history,
        commit=step is Step.COMMIT,
    )


def committed_otherwise(job_id: str, generation: int) -> RequestError:
    """Return the error for a generation that has a result of another plan: neither can it be taken, nor replaced."""
    return RequestError(
        f"run {job_id} has completed generation {generation} with another plan (code, environment or parameters differ); "
        "clear the task to train anew, or give the run another name"
    )


@contextlib.contextmanager
def locked_job(path: Path) -> Iterator[None]:
    """Hold a job's lock; the kernel frees it if we die."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
