"""What submit does, from the claim and what became of it: the whole table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from muster.core.errors import RequestError, StaleGeneration
from muster.core.event import END, Event
from muster.targets.claim import Claim, Found, Step, found_of, next_step


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
        (Found.RUNNING, 2, "sha256:a", Step.ATTACH),
        (Found.COMPLETED, 2, "sha256:a", Step.TAKE),
        (Found.UNCOMMITTED, 2, "sha256:a", Step.COMMIT),
        (Found.ENDED, 2, "sha256:a", Step.RETRY),
        (Found.RUNNING, 2, "sha256:other", Step.REPLACE),
        (Found.ENDED, 2, "sha256:other", Step.REPLACE),
        (Found.RUNNING, 3, "sha256:a", Step.SUPERSEDE),
        (Found.COMPLETED, 3, "sha256:a", Step.SUPERSEDE),
    ],
)
def test_next_step(found: Found, generation: int, plan_digest: str, step: Step) -> None:
    assert next_step(claim(), found, generation, plan_digest) is step


def test_a_generation_that_completed_otherwise_is_neither_taken_nor_replaced() -> None:
    with pytest.raises(RequestError, match="completed generation 2 with another plan"):
        next_step(claim(), Found.COMPLETED, 2, "sha256:other")


def test_no_claim_launches() -> None:
    assert next_step(None, None, 1, "sha256:a") is Step.LAUNCH


def test_an_older_generation_is_refused() -> None:
    with pytest.raises(StaleGeneration, match="generation 1 is older"):
        next_step(claim(), Found.ENDED, 1, "sha256:a")


def ended(state: str, cause: str = "") -> Event:
    return Event(time=1.0, kind=END, node=0, data={"state": state, "verdict": {"cause": cause} if cause else None})


@pytest.mark.parametrize(
    ("end", "trained", "committed"),
    [
        (None, Found.ENDED, Found.UNCOMMITTED),
        (ended("Completed"), Found.COMPLETED, Found.COMPLETED),
        (ended("Failed", "store"), Found.UNCOMMITTED, Found.UNCOMMITTED),
        (ended("Failed", "rank"), Found.ENDED, Found.UNCOMMITTED),
        (ended("Failed", "request"), Found.ENDED, Found.UNCOMMITTED),
        (ended("Canceled", "cancel"), Found.ENDED, Found.UNCOMMITTED),
    ],
)
def test_what_became_of_an_attempt_that_trained_or_only_commits(end: Event | None, trained: Found, committed: Found) -> None:
    assert found_of(running=False, end=end, commit=False) is trained
    assert found_of(running=False, end=end, commit=True) is committed
    assert found_of(running=True, end=end, commit=True) is Found.RUNNING


def test_storing_what_is_there_does_not_count_as_the_runs_duration() -> None:
    late = dataclasses.replace(claim(), submitted=100.0)
    assert late.deadline(10.0) == 11.0
    assert dataclasses.replace(late, commit=True).deadline(10.0) == 110.0


def test_a_claim_round_trips_through_its_file(tmp_path: Path) -> None:
    path = tmp_path / "claim.json"
    assert Claim.read(path) is None
    claim().write(path)
    assert Claim.read(path) == claim()
