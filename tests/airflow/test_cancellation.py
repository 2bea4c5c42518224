"""Ending the job of a task that Airflow has given up: a target that is away is asked again, and lets go of what is left."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any, cast

import pytest
import worker
from airflow.sdk.exceptions import AirflowException

from muster.core.errors import MusterError, RequestError, StaleGeneration, TargetError, UnknownRun
from muster.core.handle import JobHandle
from muster.operators.train import TrainOperator
from muster.targets.contract import ComputeTarget
from muster.triggers import cancellation, training
from muster.triggers.task_state import TaskKey
from muster.triggers.training import TrainingTrigger

HANDLE = JobHandle(job_id="j", generation=2, attempt=1, target="rack", plan_digest="sha256:0", store="s3://b/p")
AWAY = TargetError("the engine can't be reached")


class Target:
    """A target whose cancels end as they are told to, in order, and that notes what it is asked for."""

    def __init__(self, *answers: bool | MusterError) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def cancel(self, handle: JobHandle, generation: int, reason: str = "") -> bool:
        self.asked.append(f"cancel {handle.job_id} {generation}")
        answer = self.answers.pop(0)
        if isinstance(answer, MusterError):
            raise answer
        return answer

    def release(self, handle: JobHandle) -> None:
        self.asked.append(f"release {handle.job_id}")


class Told:
    """What was logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []

    def __call__(self, level: int, text: str) -> None:
        self.lines.append((level, text))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.triggers.cancellation.FIRST_DELAY", 0.001)


def end(target: Target, **options: Any) -> list[tuple[int, str]]:
    told = Told()
    cancellation.end_job(cast("ComputeTarget", target), HANDLE, "why", told, **options)
    return told.lines


@pytest.mark.parametrize("hit", [True, False])
def test_what_is_left_is_let_go_of(hit: bool) -> None:
    target = Target(hit)
    end(target)
    assert target.asked == ["cancel j 2", "release j"]


def test_what_somebody_reads_is_kept() -> None:
    target = Target(True)
    end(target, release=False)
    assert target.asked == ["cancel j 2"]


def test_a_target_that_is_away_is_asked_again() -> None:
    target = Target(AWAY, AWAY, True)
    told = end(target)
    assert target.asked == ["cancel j 2"] * 3 + ["release j"]
    assert [level for level, _ in told] == [logging.WARNING, logging.WARNING]
    assert "can't be cancelled now: the engine can't be reached" in told[0][1]


def test_what_may_still_run_is_an_error_with_what_to_do() -> None:
    target = Target(AWAY)
    told = end(target, timeout=0.0)
    assert target.asked == ["cancel j 2"]
    [(level, text)] = told
    assert level == logging.ERROR
    assert "run j generation 2 may still be running" in text
    assert "`muster cancel j --target rack`" in text


@pytest.mark.parametrize("final", [UnknownRun("none"), StaleGeneration("newer")])
def test_a_job_that_is_not_there_is_not_asked_for_again(final: MusterError) -> None:
    target = Target(final)
    assert "nothing to cancel" in end(target)[0][1]
    assert target.asked == ["cancel j 2", "release j"]


def test_a_wrong_request_is_not_repeated() -> None:
    target = Target(RequestError("the login is refused"))
    assert end(target)[0][0] == logging.ERROR
    assert target.asked == ["cancel j 2"]


# -- where it is called from


@pytest.fixture
def unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "still_wanted", lambda key: False)
    monkeypatch.setattr("muster.operators.train.still_wanted", lambda key: False)


def trigger_of(target: Target) -> TrainingTrigger:
    from muster.core.codec import to_data

    class OnTarget(TrainingTrigger):
        async def _open_target(self) -> ComputeTarget:
            return cast("ComputeTarget", target)

    key = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1}
    return OnTarget(handle=to_data(HANDLE), compute_target=None, task=key)


def test_the_triggers_kill_lets_go_of_what_is_left(unwanted: None) -> None:
    target = Target(AWAY, True)
    asyncio.run(trigger_of(target).on_kill())
    assert target.asked == ["cancel j 2", "cancel j 2", "release j"]


def test_the_ending_outlives_airflows_patience_with_the_trigger(unwanted: None) -> None:
    waited, go_on, released = threading.Event(), threading.Event(), threading.Event()

    class Slow(Target):
        def cancel(self, handle: JobHandle, generation: int, reason: str = "") -> bool:
            waited.set()
            return go_on.wait(240.0)

        def release(self, handle: JobHandle) -> None:
            released.set()

    async def killed() -> None:
        kill = asyncio.ensure_future(trigger_of(Slow()).on_kill())
        while not waited.is_set():
            await asyncio.sleep(0.01)
        kill.cancel()
        await asyncio.wait([kill])

    asyncio.run(killed())  # the loop ends, and does not wait for the thread
    assert not released.is_set()
    go_on.set()
    assert released.wait(240.0)


def operator_on(target: Target, *, followed: bool) -> TrainOperator:
    operator = TrainOperator(task_id="train", entry_script="train.py", store="s3://b/p")
    operator.launched = HANDLE
    operator._task_key = TaskKey.of(worker.context()["ti"])
    operator._target = cast("ComputeTarget", target)
    operator._followed = followed
    return operator


@pytest.mark.parametrize("followed", [True, False])
def test_the_workers_kill_lets_go_of_what_nobody_reads(unwanted: None, followed: bool) -> None:
    target = Target(True)
    operator_on(target, followed=followed).on_kill()
    assert target.asked == ["cancel j 2"] + ["release j"] * (not followed)


def test_a_worker_waits_for_an_absent_target_only_briefly(unwanted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.operators.train.KILL_TIMEOUT", 0.0)
    target = Target(AWAY)
    operator_on(target, followed=True).on_kill()
    assert target.asked == ["cancel j 2"]


def test_the_launch_of_a_task_that_was_ended_leaves_nothing(unwanted: None) -> None:
    target = Target(True, False)
    operator = operator_on(target, followed=False)
    operator.on_kill()
    with pytest.raises(AirflowException, match="was ended in airflow"):
        operator._stop_if_unwanted()
    assert target.asked == ["cancel j 2", "release j"] * 2
