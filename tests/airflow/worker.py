"""A worker process for tests to kill: executes one try of a train operator, as ``python worker.py SPEC`` with a JSON text.

``dag.test()`` runs in the test's own process, which must not die. So this process has a real operator and a real job, and only
the context of the task is made up: identity, an XCom that goes nowhere, and, on SIGTERM, the state that Airflow would name.
"""

from __future__ import annotations

import json
import signal
import sys
from types import SimpleNamespace
from typing import Any


def context(try_number: int = 1, retries: int = 1, max_tries: int = 1, run_id: str = "manual__1") -> dict[str, Any]:
    """Return what ``execute`` needs of a task's context; ``pushed`` collects its XComs."""
    pushed: dict[str, Any] = {}
    ti = SimpleNamespace(
        dag_id="kills",
        run_id=run_id,
        task_id="train",
        map_index=-1,
        try_number=try_number,
        max_tries=max_tries,
        pushed=pushed,
        xcom_push=lambda key, value: pushed.update({key: value}),
    )
    return {"ti": ti, "outlet_events": {}}


def airflow_says(state: str | None) -> None:
    """Make Airflow answer that the task of :func:`context` is in a state."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    answer = staticmethod(lambda *_, **__: {"manual__1": {"train": state}})
    RuntimeTaskInstance.get_task_states = answer  # type: ignore[method-assign,assignment]


def main() -> None:
    from muster.operators.train import TrainOperator

    spec = json.loads(sys.argv[1])
    operator = TrainOperator(task_id="train", retries=1, **spec["parameters"])
    airflow_says(spec["state"])
    signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())  # as Airflow's task runner does
    operator.execute(context())


if __name__ == "__main__":
    main()
