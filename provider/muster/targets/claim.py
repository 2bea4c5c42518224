"""Claim: who owns a job on a target; the rule that makes submit exactly-once, as a pure function over it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from muster.core.codec import canonical, from_data
from muster.core.errors import RequestError, StaleGeneration
from muster.node.assignment import AttemptRecord

CLAIM_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The owner of a job. ``first_started``: of the generation's first attempt, from which its deadline counts."""

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
    version: int = CLAIM_VERSION

    @classmethod
    def read(cls, path: Path) -> Claim | None:
        """Read a claim file; None if there is none."""
        try:
            return from_data(cls, json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def write(self, path: Path) -> None:
        """Replace the claim file as one."""
        scratch = path.with_suffix(".new")
        scratch.write_bytes(canonical(self))
        os.replace(scratch, path)


class Found(str, Enum):
    """What became of the attempt that the claim names."""

    RUNNING = "running"
    COMPLETED = "completed"
    UNCOMMITTED = "uncommitted"  # the ranks completed, the store did not take the outputs
    ENDED = "ended"  # failed, cancelled or lost: another attempt may follow


class Step(str, Enum):
    """What submit does next."""

    LAUNCH = "launch"  # a new generation: attempt 1
    ATTACH = "attach"
    TAKE = "take"
    RETRY = "retry"  # the next attempt, resumed from committed checkpoints
    COMMIT = "commit"  # the next attempt only stores what the last one left
    REPLACE = "replace"  # end what runs, then the next attempt
    SUPERSEDE = "supersede"  # end what runs, then a new generation


def next_step(claim: Claim | None, found: Found | None, generation: int, plan_digest: str) -> Step:
    """Decide what a submit does, from the claim and what became of its attempt.

    :raises StaleGeneration: a newer generation owns the job.
    :raises RequestError: the generation is committed, with another plan.
    """
    if claim is None or found is None:
        return Step.LAUNCH
    if claim.generation > generation:
        raise StaleGeneration(
            f"job {claim.job_id} is owned by generation {claim.generation}; generation {generation} is older and must not start"
        )
    if claim.generation < generation:
        return Step.SUPERSEDE
    if claim.plan_digest != plan_digest:
        if found is Found.COMPLETED:
            raise committed_otherwise(claim.job_id, generation)
        return Step.REPLACE
    return {
        Found.RUNNING: Step.ATTACH,
        Found.COMPLETED: Step.TAKE,
        Found.UNCOMMITTED: Step.COMMIT,
        Found.ENDED: Step.RETRY,
    }[found]


def committed_otherwise(job_id: str, generation: int) -> RequestError:
    """Give the error for a generation that has a result of another plan: neither can it be taken, nor replaced."""
    return RequestError(
        f"run {job_id} has completed generation {generation} with another plan (code, environment or parameters differ); "
        "clear the task to train anew, or give the run another name"
    )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a job's lock; the kernel frees it if we die."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
