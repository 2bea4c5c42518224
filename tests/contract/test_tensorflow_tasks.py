"""TensorFlow's tasks on the real local target, without TensorFlow: what they are told, and who ends whom."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lab import Lab, lines
from muster.core.event import Event
from muster.core.job import Roles, TrainingJob
from muster.core.plan import EnvironmentRef, JobPlan
from muster.core.state import RunState
from muster.core.verdict import Cause
from muster.launchers import launcher_of
from muster.runner import Outcome

# listens as TensorFlow's servers do, on every address of its machine; goes on when all have reached all
MEETS = """
import json, os, socket, time
config = json.loads(os.environ["TF_CONFIG"])
print(os.environ["TF_CONFIG"], flush=True)
task, cluster = config["task"], config["cluster"]
addresses = [(host, int(port)) for hosts in cluster.values() for host, _, port in (a.rpartition(":") for a in hosts)]
give_up = time.monotonic() + 200

def reach(address):
    while time.monotonic() < give_up:
        try:
            return socket.create_connection(address, timeout=5).close()
        except OSError:
            time.sleep(0.02)
    raise TimeoutError(address)

server = socket.socket()
if task["type"] in cluster:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("", int(cluster[task["type"]][task["index"]].rpartition(":")[2])))
    server.listen(64)
for address in addresses:
    reach(address)
if task["type"] in cluster:
    server.settimeout(200)
    for _ in range(len(addresses) + int(os.environ["EVALUATORS"])):
        server.accept()[0].close()
"""
WAITS_FOR_EVER = f"""{MEETS}
if task["type"] in %r:
    time.sleep(600)
print("done", flush=True)
"""
FAILING_SERVER = f"""{MEETS}
if task["type"] == "ps":
    raise SystemExit(3)
host, _, port = cluster["ps"][0].rpartition(":")
while time.monotonic() < give_up:
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        print("the server is gone", flush=True)
        break
    time.sleep(0.02)
"""


def submitted(lab: Lab, code: str, roles: Roles, nodes: int = 2) -> Any:
    job = TrainingJob(
        name="tasks",
        framework="tensorflow",
        command=("python", "-c", code),
        node_count=nodes,
        distributed_backend="ps",
        roles=roles,
        store=lab.store.uri,
        grace_seconds=2.0,
    )
    plan = JobPlan(
        name=job.name,
        framework=job.framework,
        nodes=launcher_of(job).plan(job),
        snapshot="",
        environment=EnvironmentRef(),
        env=(("EVALUATORS", str(int(roles.evaluator))),),
        store=job.store,
    )
    return lab.submit(plan)


def ran(lab: Lab, code: str, roles: Roles, nodes: int = 2) -> tuple[Any, Outcome, list[Event]]:
    handle = submitted(lab, code, roles, nodes)
    return handle, *lab.wait(handle)


def ends_of(lab: Lab, handle: Any) -> dict[int, tuple[str, int | None]]:
    """Return role and exit code of every rank, as the record has them."""
    ranks: Any = lab.record(handle)["ranks"]
    return {rank["rank"]: (rank["role"], rank.get("exit_code")) for rank in ranks}


def test_servers_and_evaluator_are_stopped_when_the_workers_are_done(lab: Lab) -> None:
    code = WAITS_FOR_EVER % (("ps", "evaluator"),)
    handle, outcome, events = ran(lab, code, Roles(workers=2, servers=1, evaluator=True))
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    seen = [json.loads(lines(events, rank)[0]) for rank in range(4)]
    assert all(list(config) == ["cluster", "task", "environment"] for config in seen)
    assert [(config["task"]["type"], config["task"]["index"]) for config in seen] == [
        ("worker", 0),
        ("worker", 1),
        ("evaluator", 0),
        ("ps", 0),
    ]
    assert {role: len(hosts) for role, hosts in seen[0]["cluster"].items()} == {"ps": 1, "worker": 2}
    ends = ends_of(lab, handle)
    assert [ends[rank] for rank in (0, 1)] == [("worker", 0)] * 2
    assert all(ends[rank][1] != 0 for rank in (2, 3))
    assert lab.living(handle) == []


def test_workers_of_a_chief_with_servers_are_stopped_when_the_chief_is_done(lab: Lab) -> None:
    code = WAITS_FOR_EVER % (("ps", "worker"),)
    handle, outcome, events = ran(lab, code, Roles(workers=2, servers=1, chief=True))
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    assert [rank for rank in range(4) if "done" in lines(events, rank)] == [0]
    assert lab.living(handle) == []


def test_a_worker_that_fails_under_a_chief_with_servers_is_named(lab: Lab) -> None:
    code = f"{MEETS}\nif (task['type'], task['index']) == ('worker', 1):\n    raise ValueError('bad data')\ntime.sleep(600)\n"
    handle, outcome, _ = ran(lab, code, Roles(workers=2, servers=1, chief=True))
    assert outcome.state is RunState.FAILED
    assert outcome.verdict is not None
    assert (outcome.verdict.cause, outcome.verdict.rank) == (Cause.RANK, 2)
    assert lab.living(handle) == []


def test_a_server_that_fails_decides_nothing(lab: Lab) -> None:
    handle, outcome, events = ran(lab, FAILING_SERVER, Roles(workers=2, servers=1))
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    assert [lines(events, rank)[-1] for rank in (0, 1)] == ["the server is gone"] * 2
    assert ends_of(lab, handle)[2] == ("ps", 3)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_worker_that_fails_is_named_and_the_servers_are_stopped(failing: int, lab: Lab) -> None:
    code = (
        f"{MEETS}\nif (task['type'], task['index']) == ('worker', {failing}):\n    raise ValueError('bad data')\n"
        "time.sleep(600)\n"
    )
    handle, outcome, _ = ran(lab, code, Roles(workers=2, servers=1))
    assert outcome.state is RunState.FAILED
    assert outcome.verdict is not None
    assert (outcome.verdict.cause, outcome.verdict.rank) == (Cause.RANK, failing)
    assert "ValueError: bad data" in outcome.verdict.detail
    assert lab.living(handle) == []


def test_one_task_is_told_nothing(lab: Lab) -> None:
    _, outcome, events = ran(lab, "import os; print('TF_CONFIG' in os.environ)", Roles(workers=1), nodes=1)
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    assert lines(events, 0) == ["False"]
