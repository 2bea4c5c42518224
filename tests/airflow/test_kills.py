"""Workers and triggers that are killed: the job is left, found again, or ended, as Airflow still counts on it or not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import worker
from air import Air
from airflow.sdk.exceptions import AirflowException, TaskDeferred

from muster.core.codec import from_data, to_data
from muster.core.handle import JobHandle
from muster.node import processes
from muster.operators import identity
from muster.operators.train import TrainOperator
from muster.runner import stored_outcome
from muster.triggers.training import TrainingTrigger
from store_server import wait_until

# waits for a file, so that a test says when the training is over; `starts` counts launches
PATIENT = """
import os, pathlib, time
here = pathlib.Path({folder!r})
with open(here / 'starts', 'a') as starts:
    starts.write('x')
print('begun', flush=True)
while not (here / 'finish').exists():
    time.sleep(0.02)
print('done', flush=True)
"""
Workers = Callable[..., subprocess.Popen[bytes]]


class Job:
    """A job that runs until it is told to finish, and what can be seen of it."""

    def __init__(self, air: Air, folder: Path) -> None:
        self.air = air
        self.folder = folder
        self.parameters = {**air.parameters, "entry_script": air.script(PATIENT.format(folder=str(folder))), "grace_seconds": 1}
        self.id = identity.job_id(worker.context()["ti"])

    @property
    def handle(self) -> JobHandle:
        return self.air.target.find(self.id)

    @property
    def starts(self) -> int:
        return len((self.folder / "starts").read_text())

    def wait_until_begun(self) -> None:
        wait_until((self.folder / "starts").exists, what="the rank has begun")

    def finish(self) -> None:
        (self.folder / "finish").touch()

    def living(self) -> list[int]:
        """Return every process of the job."""
        return processes.marked(f"MUSTER_JOB={self.handle.id.marker}")

    def wait_until_gone(self) -> None:
        wait_until(lambda: not self.living(), what="all processes of the job are gone")

    def operator(self, **more: Any) -> TrainOperator:
        return TrainOperator(task_id="train", retries=1, **self.parameters, **more)

    def lines(self) -> list[str]:
        """Return every line of the run's record in the store."""
        store, handle = self.air.store.open(), self.handle
        events = (event for _, event in store.events(self.id, handle.generation, handle.attempt, 0))
        return [event.data["text"] for event in events if event.kind == "line"]


@pytest.fixture
def job(air: Air, tmp_path: Path) -> Job:
    return Job(air, tmp_path)


@pytest.fixture
def start_worker(job: Job) -> Iterator[Workers]:
    """Yield what starts a worker process; all are gone after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(state: str = "running") -> subprocess.Popen[bytes]:
        spec = json.dumps({"parameters": job.parameters, "state": state})
        argv = [sys.executable, str(Path(worker.__file__)), spec]
        started.append(subprocess.Popen(argv, env={**os.environ}, start_new_session=True))
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.wait()


def test_a_killed_worker_is_followed_by_one_that_re_attaches(job: Job, start_worker: Workers) -> None:
    child = start_worker()
    job.wait_until_begun()
    child.kill()
    child.wait()
    operator = job.operator()
    later = in_thread(lambda: operator.execute(worker.context(try_number=2)))
    wait_until(lambda: operator.launched or later.done(), what="the second try has found the job")
    assert operator.launched is not None
    assert operator.launched.found == "attached"
    job.finish()
    assert later.result(240)["state"] == "Completed"
    assert later.result()["attempt"] == 1
    assert job.starts == 1
    assert job.lines() == ["begun", "done"]


def test_a_result_that_no_worker_was_told_of_is_taken(job: Job, start_worker: Workers) -> None:
    child = start_worker()
    job.wait_until_begun()
    child.kill()
    child.wait()
    job.finish()
    job.wait_until_gone()
    context = worker.context(try_number=2)
    taken = job.operator().execute(context)
    job.air.keep_log()
    assert (taken["state"], taken["generation"], taken["attempt"]) == ("Completed", 1, 1)
    assert taken["manifest"] == stored_outcome(job.handle, job.air.store.access).manifest
    assert context["ti"].pushed["muster_run"]["run"] == job.id
    assert job.starts == 1
    assert "nothing was trained" in job.air.log


def test_a_result_is_taken_also_where_the_target_has_forgotten_the_job(job: Job) -> None:
    job.finish()
    job.operator().execute(worker.context())
    job.air.target.remove(job.handle)
    assert job.operator().execute(worker.context(try_number=2))["state"] == "Completed"
    assert job.starts == 1


def test_sigterm_leaves_the_training_running_while_airflow_counts_on_it(job: Job, start_worker: Workers) -> None:
    child = start_worker(state="running")
    job.wait_until_begun()
    child.send_signal(signal.SIGTERM)
    job.finish()
    assert child.wait(240) == 0
    assert stored_outcome(job.handle, job.air.store.access).state.value == "Completed"


def test_sigterm_ends_the_training_of_a_task_that_was_ended(job: Job, start_worker: Workers) -> None:
    child = start_worker(state="failed")
    job.wait_until_begun()
    child.send_signal(signal.SIGTERM)
    assert child.wait(240) != 0
    job.wait_until_gone()
    assert stored_outcome(job.handle, job.air.store.access).state.value == "Canceled"


@pytest.mark.parametrize("state", ["deferred", "running", "queued", "up_for_retry"])
def test_the_triggers_kill_leaves_a_job_that_airflow_counts_on(state: str, job: Job, restore_states: None) -> None:
    trigger = deferred(job)
    job.wait_until_begun()
    worker.airflow_says(state)
    asyncio.run(trigger.on_kill())
    assert job.living()
    job.finish()
    event = asyncio.run(first(trigger))
    assert event["outcome"]["state"] == "Completed"


@pytest.mark.parametrize("state", ["failed", "success", None])
def test_the_triggers_kill_ends_a_job_that_nobody_wants(state: str | None, job: Job, restore_states: None) -> None:
    trigger = deferred(job)
    job.wait_until_begun()
    worker.airflow_says(state)
    asyncio.run(trigger.on_kill())
    assert not job.living()
    with pytest.raises(AirflowException, match="Canceled"):
        job.operator().execute_complete(worker.context(), asyncio.run(first(trigger)))


def test_a_late_kill_of_an_older_generation_misses_the_new_one(job: Job, restore_states: None) -> None:
    trigger = deferred(job)
    job.wait_until_begun()
    deferred(job, worker.context(try_number=2, max_tries=2))
    worker.airflow_says("failed")
    asyncio.run(trigger.on_kill())
    assert job.handle.generation == 2
    assert job.living()


def test_a_job_that_the_triggerer_cannot_see_is_waited_for_in_the_worker(job: Job) -> None:
    handle = deferred(job).handle
    job.finish()
    elsewhere = TrainingTrigger(handle=handle, compute_target={"root": str(job.folder / "elsewhere")}, task=key())
    event = asyncio.run(first(elsewhere))
    assert "unreachable" in event
    assert job.operator(deferrable=True).execute_complete(worker.context(), event)["state"] == "Completed"


def test_a_trigger_survives_serialization(job: Job) -> None:
    from airflow.sdk.serde import deserialize, serialize

    trigger = TrainingTrigger(handle=to_data(from_data(JobHandle, HANDLE)), compute_target={"root": "/x y"}, task=key())
    path, arguments = trigger.serialize()
    again = TrainingTrigger(**deserialize(serialize(json.loads(json.dumps(arguments)))))
    assert path == "muster.triggers.training.TrainingTrigger"
    assert again.serialize() == (path, arguments)


HANDLE = {"job_id": "j", "generation": 1, "attempt": 1, "target": "local", "plan_digest": "sha256:0", "store": "s3://b/p"}


@pytest.fixture
def restore_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore Airflow's own answer after the test."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(RuntimeTaskInstance.get_task_states))


def key() -> dict[str, Any]:
    return {"dag_id": "kills", "run_id": "manual__1", "task_id": "train", "map_index": -1}


def deferred(job: Job, context: dict[str, Any] | None = None) -> TrainingTrigger:
    """Launch the job as a deferrable task does; give the trigger, as a triggerer would make it."""
    with pytest.raises(TaskDeferred) as raised:
        job.operator(deferrable=True).execute(context or worker.context())
    assert raised.value.timeout is None
    return TrainingTrigger(**raised.value.trigger.serialize()[1])


async def first(trigger: TrainingTrigger) -> Any:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("no event")


def in_thread(call: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
