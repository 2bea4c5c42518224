"""Whether a killed task's job goes on: as Airflow says, and where it says nothing, yes."""

from __future__ import annotations

import threading

import pytest

from muster.triggers.task_state import TaskKey, find_state, still_wanted

KEY = TaskKey(dag_id="d", run_id="r", task_id="t")


@pytest.mark.parametrize("state", ["running", "deferred", "queued", "scheduled", "up_for_retry"])
def test_a_task_that_airflow_still_counts_on_keeps_its_job(state: str) -> None:
    assert still_wanted(KEY, lambda _: state)


@pytest.mark.parametrize("state", ["failed", "success", "skipped", "removed", "restarting", "upstream_failed", None])
def test_a_task_that_was_ended_does_not(state: str | None) -> None:
    assert not still_wanted(KEY, lambda _: state)


def test_no_answer_counts_as_yes() -> None:
    never = threading.Event()

    def silent(_: TaskKey) -> str | None:
        never.wait(300)
        return "failed"

    def broken(_: TaskKey) -> str | None:
        raise ConnectionError("the supervisor is gone")

    assert still_wanted(KEY, silent, seconds=0.05)
    assert still_wanted(KEY, broken)
    never.set()


def test_mapped_tasks_have_names_of_their_own_in_the_answer() -> None:
    states = {"r": {"t": "success", "t_1": "failed"}}
    assert find_state(states, KEY) == "success"
    assert find_state(states, TaskKey(dag_id="d", run_id="r", task_id="t", map_index=1)) == "failed"
    assert find_state(states, TaskKey(dag_id="d", run_id="deleted", task_id="t")) is None
