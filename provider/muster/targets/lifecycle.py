"""The lifecycle of a job, the same on every target: submit, find, cancel, commit and remove over the target's ledger."""

from __future__ import annotations

import contextlib
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from muster.core.errors import TargetError, UnknownRun
from muster.core.event import Event
from muster.core.handle import JobHandle, SubmitResult
from muster.core.plan import JobPlan
from muster.core.store_access import StoreAccess
from muster.targets.claim import AttemptStatus, Claim, Step, next_claim, next_step
from muster.targets.contract import Submission
from muster.targets.watch.timing import WatchTiming

_RESULTS = {Step.ATTACH: SubmitResult.ATTACHED, Step.REUSE: SubmitResult.COMPLETED}


@dataclass(frozen=True, kw_only=True)
class Timing(WatchTiming):
    """Limits of waiting that all targets have, in seconds; a target adds its own."""

    kill_slack: float = 45.0  # beyond the grace, in which cancelled agents must have left


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The owner of a job and the status of its attempt, both None where nobody owns it; ``end``: the attempt's END event."""

    claim: Claim | None = None
    status: AttemptStatus | None = None
    end: Event | None = None


S = TypeVar("S", bound=Standing)


class Ledger(Protocol[S]):
    """Jobs of one target; its own ``Standing`` may carry what the target needs to go on from it.

    ``target``: its name in handles.
    """

    target: str

    @property
    def location(self) -> str:
        """Return the location of the jobs, for error messages."""
        ...

    def owner(self, job_id: str) -> Claim | None:
        """Return who owns the job, without a look at its processes."""
        ...

    def standing(self, job_id: str) -> S:
        """Return who owns the job and the status of that attempt: liveness is read before the END event, never after it."""
        ...

    def launch(self, claim: Claim, before: S, submission: Submission) -> bool:
        """Write ``claim`` if the job still stands as ``before``, and start the attempt; False if another submit was faster.

        The one compare-and-swap of the target. ``claim.commit``: the attempt only stores the outputs of earlier ones.
        """
        ...

    def end(self, standing: S, reason: str) -> None:
        """End a running attempt, and wait until no process of it is left.

        :raises TargetError: a process could not be ended.
        """
        ...

    def plan_of(self, standing: S) -> JobPlan:
        """Return the plan of the owning attempt."""
        ...

    def delete(self, job_id: str, standing: S) -> None:
        """Delete everything of a job that does not run."""
        ...

    def delete_older(self, standing: S) -> None:
        """Delete what attempts before the owner hold; by default nothing is held."""
        return None

    def locked(self, job_id: str) -> AbstractContextManager[None]:
        """Keep other submits of the job out; by default nobody is kept out, and ``launch`` alone decides."""
        return contextlib.nullcontext()


class Lifecycle(Generic[S]):
    """The part of :class:`muster.targets.contract.ComputeTarget` that is the same for all targets with a ledger."""

    @property
    def ledger(self) -> Ledger[S]:
        """Return the target's ledger."""
        raise NotImplementedError

    def submit(self, submission: Submission) -> JobHandle:
        """Create the job, or return its running attempt; see :class:`muster.targets.contract.ComputeTarget`."""
        ledger, digest = self.ledger, submission.plan.digest()
        with ledger.locked(submission.job_id):
            while True:
                before = ledger.standing(submission.job_id)
                step = next_step(before.claim, before.status, submission.generation, digest)
                if before.claim is not None and step in _RESULTS:
                    ledger.delete_older(before)
                    return before.claim.handle(ledger.target, _RESULTS[step])
                if before.status is AttemptStatus.RUNNING:
                    ledger.end(before, "replaced by a newer submit")
                    continue
                claim = next_claim(before.claim, before.end, step, submission, digest)
                if ledger.launch(claim, before, submission):
                    return claim.handle(ledger.target, SubmitResult.LAUNCHED)

    def find(self, job_id: str) -> JobHandle:
        """Return the handle of a job's newest attempt.

        :raises UnknownRun: nobody owns the job.
        """
        ledger = self.ledger
        return _known(ledger, job_id, ledger.owner(job_id)).handle(ledger.target, SubmitResult.ATTACHED)

    def cancel(self, handle: JobHandle, generation: int, reason: str = "cancelled") -> bool:
        """End the job if ``generation`` still owns it, and wait until nothing of it is left; return whether it was running."""
        ledger = self.ledger
        with ledger.locked(handle.job_id):
            standing = ledger.standing(handle.job_id)
            owns = standing.claim is not None and standing.claim.generation == generation
            if not owns or standing.status is not AttemptStatus.RUNNING:
                return False
            ledger.end(standing, reason)
            return True

    def commit(self, handle: JobHandle, access: StoreAccess) -> JobHandle:
        """Launch an attempt that only stores what a completed run could not.

        :raises TargetError: nothing waits to be stored, or another submit owns the job by now.
        """
        ledger, job_id = self.ledger, handle.job_id
        with ledger.locked(job_id):
            before = ledger.standing(job_id)
            claim = _known(ledger, job_id, before.claim)
            if before.status is not AttemptStatus.UNCOMMITTED:
                status = before.status.value if before.status else "unknown"
                raise TargetError(f"run {job_id} has nothing to commit: it is {status}")
            submission = Submission(
                job_id=job_id,
                generation=claim.generation,
                plan=ledger.plan_of(before),
                archive=None,
                access=access,
                requested=time.time(),
            )
            following = next_claim(claim, before.end, Step.COMMIT, submission, claim.plan_digest)
            if not ledger.launch(following, before, submission):
                raise TargetError(f"run {job_id} was submitted again meanwhile; watch that attempt")
            return following.handle(ledger.target, SubmitResult.LAUNCHED)

    def remove(self, handle: JobHandle) -> None:
        """Delete everything of a job.

        :raises TargetError: the job is running.
        """
        ledger, job_id = self.ledger, handle.job_id
        with ledger.locked(job_id):
            standing = ledger.standing(job_id)
            if standing.status is AttemptStatus.RUNNING:
                raise TargetError(f"run {job_id} is still running; cancel it first")
            ledger.delete(job_id, standing)


def _known(ledger: Ledger[S], job_id: str, claim: Claim | None) -> Claim:
    if claim is None:
        target = f"target {ledger.target} ({ledger.location})"
        raise UnknownRun(f"no run {job_id!r} on {target}; `muster ls` lists those in the store")
    return claim
