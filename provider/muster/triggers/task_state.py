"""Task state lookup in Airflow: decides whether a kill cancels the job or leaves it to the next try."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

LOOKUP_SECONDS = 3.0  # a supervisor ends its task process 5 s after SIGTERM

# States in which Airflow still needs the job: some try of the task is running, or will run. A clear
# raises the generation, and the submit of the new generation ends the older job, so its "scheduled" needs no cancel here.
WANTED = frozenset({"scheduled", "queued", "running", "deferred", "up_for_retry", "up_for_reschedule", "awaiting_input"})

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TaskKey:
    """The task instance that a job stands for."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    @classmethod
    def of(cls, ti: Any) -> TaskKey:
        """Return the key of a task instance."""
        index = -1 if ti.map_index is None else ti.map_index
        return cls(dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id, map_index=index)

    def to_data(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def look_up_state(key: TaskKey) -> str | None:
    """Return the state of a task instance in Airflow; None if it has none or does not exist.

    :raises Exception: Airflow is not reachable from here, or does not answer.
    """
    states = RuntimeTaskInstance.get_task_states(
        key.dag_id, map_index=key.map_index, task_ids=[key.task_id], run_ids=[key.run_id]
    )
    return find_state(states, key)


def find_state(states: Mapping[str, Mapping[str, Any]], key: TaskKey) -> str | None:
    """Find one task instance in Airflow's answer ``{run: {task: state}}``, where mapped tasks are called ``task_index``."""
    name = key.task_id if key.map_index < 0 else f"{key.task_id}_{key.map_index}"
    state = states.get(key.run_id, {}).get(name)
    return None if state is None else str(getattr(state, "value", state))


def is_wanted(state: str | None) -> bool:
    """Return whether Airflow still needs the job of a task in this state."""
    return state in WANTED


def still_wanted(
    key: TaskKey, lookup: Callable[[TaskKey], str | None] = look_up_state, seconds: float = LOOKUP_SECONDS
) -> bool:
    """Return whether the job should continue; no answer within ``seconds`` counts as yes.

    A late cancel takes hours of training from a task that Airflow will run again; an unwanted job ends by its deadline.
    The lookup runs in another thread: a signal handler calls this, and the interrupted code may hold the connection to Airflow.
    """
    answers: queue.Queue[str | Exception | None] = queue.Queue()
    threading.Thread(target=_look_up, args=(lookup, key, answers), daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        answer = TimeoutError(f"no answer in {seconds:g} s")
    if isinstance(answer, Exception):
        log.warning("can't look up the state of %s in airflow: %s", key, answer)
        return True
    return is_wanted(answer)


def _look_up(lookup: Callable[[TaskKey], str | None], key: TaskKey, answers: queue.Queue[str | Exception | None]) -> None:
    try:
        answers.put(lookup(key))
    except Exception as error:
        answers.put(error)
