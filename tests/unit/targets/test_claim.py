"""What submit does, from the claim and what became of it: the whole table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from muster.core.errors import RequestError, StaleGeneration
from muster.core.event import END, Event
from muster.targets.claim import AttemptStatus, Claim, Step, next_step, status_of


def claim(generation: int = 2, plan_digest: str = "sha256:a") -> Claim:
    return Claim(
        job_id="j",
        generation=generation,
        attempt=1,
        plan_digest=plan_digest,
        store="s3://b",
        nodes=2,
        submitted=1.0,
        first_started=1.0,
    )


@pytest.mark.parametrize(
    ("found", "generation", "plan_digest", "step"),
    [
        (AttemptStatus.RUNNING, 2, "sha256:a", Step.ATTACH),
        (AttemptStatus.COMPLETED, 2, "sha256:a", Step.REUSE),
        (AttemptStatus.UNCOMMITTED, 2, "sha256:a", Step.COMMIT),
        (AttemptStatus.ENDED, 2, "sha256:a", Step.RETRY),
        (AttemptStatus.RUNNING, 2, "sha256:other", Step.REPLACE),
        (AttemptStatus.ENDED, 2, "sha256:other", Step.REPLACE),
        (AttemptStatus.RUNNING, 3, "sha256:a", Step.SUPERSEDE),
        (AttemptStatus.COMPLETED, 3, "sha256:a", Step.SUPERSEDE),
    ],
)
def test_next_step(found: AttemptStatus, generation: int, plan_digest: str, step: Step) -> None:
    assert next_step(claim(), found, generation, plan_digest) is step


def test_a_generation_that_completed_otherwise_is_neither_taken_nor_replaced() -> None:
    with pytest.raises(RequestError, match="completed generation 2 with another plan"):
        next_step(claim(), AttemptStatus.COMPLETED, 2, "sha256:other")


def test_no_claim_launches() -> None:
    assert next_step(None, None, 1, "sha256:a") is Step.LAUNCH


def test_an_older_generation_is_refused() -> None:
    with pytest.raises(StaleGeneration, match="generation 1 is older"):
        next_step(claim(), AttemptStatus.ENDED, 1, "sha256:a")


def ended(state: str, cause: str = "") -> Event:
    return Event(time=1.0, kind=END, node=0, data={"state": state, "verdict": {"cause": cause} if cause else None})


@pytest.mark.parametrize(
    ("end", "trained", "committed"),
    [
        (None, AttemptStatus.ENDED, AttemptStatus.UNCOMMITTED),
        (ended("Completed"), AttemptStatus.COMPLETED, AttemptStatus.COMPLETED),
        (ended("Failed", "store"), AttemptStatus.UNCOMMITTED, AttemptStatus.UNCOMMITTED),
        (ended("Failed", "rank"), AttemptStatus.ENDED, AttemptStatus.UNCOMMITTED),
        (ended("Failed", "request"), AttemptStatus.ENDED, AttemptStatus.UNCOMMITTED),
        (ended("Canceled", "cancel"), AttemptStatus.ENDED, AttemptStatus.UNCOMMITTED),
    ],
)
def test_what_became_of_an_attempt_that_trained_or_only_commits(
    end: Event | None, trained: AttemptStatus, committed: AttemptStatus
) -> None:
    assert status_of(running=False, end=end, commit=False) is trained
    assert status_of(running=False, end=end, commit=True) is committed
    assert status_of(running=True, end=end, commit=True) is AttemptStatus.RUNNING


def test_storing_what_is_there_does_not_count_as_the_runs_duration() -> None:
    late = dataclasses.replace(claim(), submitted=100.0)
    assert late.deadline(10.0) == 11.0
    assert dataclasses.replace(late, commit=True).deadline(10.0) == 110.0


def test_a_claim_round_trips_through_its_file(tmp_path: Path) -> None:
    path = tmp_path / "claim.json"
    assert Claim.read(path) is None
    claim().write(path)
    assert Claim.read(path) == claim()
