"""Job ids and generations: the same over tries and workers, different for everything else."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import pytest

from muster.operators import identity


@dataclass(frozen=True)
class Ti:
    dag_id: str = "train_digits"
    run_id: str = "manual__2026-11-21T10:00:00+00:00"
    task_id: str = "group.train"
    map_index: int | None = -1
    max_tries: int = 2
    try_number: int = 1


def test_a_job_id_is_the_same_for_every_try() -> None:
    assert identity.job_id(Ti()) == identity.job_id(Ti(try_number=3, max_tries=5))
    assert identity.job_id(Ti()) == identity.job_id(Ti(map_index=None))


@pytest.mark.parametrize(
    "other",
    [
        Ti(dag_id="train_digits.group", task_id="train"),
        Ti(dag_id="train-digits"),
        Ti(run_id="other"),
        Ti(task_id="x"),
        Ti(map_index=0),
    ],
)
def test_a_job_id_differs_for_everything_else(other: Ti) -> None:
    assert identity.job_id(other) != identity.job_id(Ti())


def test_a_job_id_differs_for_other_deployments(monkeypatch: pytest.MonkeyPatch) -> None:
    here = identity.job_id(Ti())
    monkeypatch.setenv("AIRFLOW__MUSTER__DEPLOYMENT_ID", "another")
    there = identity.job_id(Ti())
    monkeypatch.setenv("AIRFLOW__MUSTER__DEPLOYMENT_ID", "")
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "https://airflow.example.com/execution/")
    derived = identity.job_id(Ti())
    assert len({here, there, derived}) == 3


@pytest.mark.parametrize("text", ["a b", "ü" * 200, "../..", "", "-rf", "$(id)", "line\nbreak"])
def test_a_job_id_is_a_safe_and_short_name(text: str) -> None:
    job_id = identity.job_id(replace(Ti(), dag_id=text, task_id=text, run_id=text))
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}", job_id)


@pytest.mark.parametrize(
    ("max_tries", "retries", "expected"), [(0, 0, 1), (3, 3, 1), (4, 3, 2), (1, 0, 2), (0, 3, 1), (0, None, 1)]
)
def test_a_generation_is_the_first_try_number(max_tries: int, retries: int | None, expected: int) -> None:
    assert identity.generation(Ti(max_tries=max_tries), retries) == expected


def test_a_retry_is_a_later_try_of_the_same_generation() -> None:
    assert not identity.is_retry(Ti(max_tries=2, try_number=1), 2)
    assert identity.is_retry(Ti(max_tries=2, try_number=2), 2)
    assert not identity.is_retry(Ti(max_tries=4, try_number=3), 2)
