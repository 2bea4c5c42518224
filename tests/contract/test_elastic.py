"""Elastic PyTorch under a real torchrun, here, in containers, on hosts: nodes are lost and come back, the others train on."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from docker_lab import DockerLab
from elastic_lab import TRAIN, elastic_plan, kill_node, left
from frameworks import TORCH, Frameworks
from hosts_lab import HostsLab
from lab import Lab, lines, notes
from muster.core.event import END, Event
from muster.core.handle import JobHandle
from muster.core.plan import EnvironmentRef
from muster.core.state import RunState
from muster.core.store_keys import RunKeys
from muster.core.verdict import Cause
from muster.node.host import liveness
from muster.runner import Outcome
from muster.store.run_store import RunStore
from store_server import wait_until

pytestmark = pytest.mark.timeout(1200)  # torch is installed here and in an image


@pytest.fixture
def locked(frameworks: Frameworks) -> EnvironmentRef:
    """The environment with torch, as a list of packages."""
    return frameworks.locked(*TORCH)


@pytest.fixture
def environment(frameworks: Frameworks) -> EnvironmentRef:
    """An environment of Muster's own with torch."""
    return frameworks.installed(*TORCH)


@pytest.fixture
def no_restarts(request: pytest.FixtureRequest) -> None:
    """Leave lost nodes lost."""
    for name in {"lab", "docker_lab"} & set(request.fixturenames):
        request.getfixturevalue(name).timing["restarts"] = 0


def wait_for_epoch(lab: Lab, handle: JobHandle, node: int, epoch: int) -> None:
    log, line = lab.paths(handle, node).events, f'"epoch {epoch}"'.encode()
    wait_until(lambda: log.exists() and line in log.read_bytes(), 240.0, what=f"epoch {epoch} on node {node}")


def begins(events: list[Event], rank: int) -> list[str]:
    return [line for line in lines(events, rank) if line.startswith("begin ")]


def weights(events: list[Event]) -> dict[int, str]:
    return {e.data["rank"]: e.data["text"] for e in events if e.kind == "line" and e.data["text"].startswith("weights ")}


@pytest.mark.usefixtures("no_restarts")
def test_a_lost_node_is_survived_from_the_last_checkpoint(lab: Lab, environment: EnvironmentRef) -> None:
    plan = elastic_plan(TRAIN, lab.store.uri, (2, 3), arguments=("40", "2"), environment=environment)
    handle = lab.submit(plan)
    wait_for_epoch(lab, handle, 2, 5)
    kill_node(lab, handle, 2)
    outcome, events = lab.wait(handle, 300.0)
    assert outcome.state is RunState.COMPLETED, (outcome.verdict, notes(events), lines(events))
    assert set(weights(events)) == {0, 1}
    assert len(set(weights(events).values())) == 1
    for rank in (0, 1):
        first, again = begins(events, rank)
        assert first == f"begin 0 as {rank} of 3"
        assert int(again.split()[1]) >= 5
        assert again.endswith(f"as {rank} of 2")
    assert "node 2 (" in notes(events)
    assert "was lost: " in notes(events)
    assert left(lab, handle) == []
    check_what_is_kept(lab, handle)


def check_what_is_kept(lab: Lab, handle: JobHandle) -> None:
    """The manifest is of the nodes that were there at the end, and says which one was not."""
    record = lab.record(handle)
    [lost] = record["lost"]  # type: ignore[misc]
    assert (lost["node"], lost["back"]) == (2, None)  # type: ignore[index]
    manifest = RunStore(lab.store.uri, lab.store.access).manifest(handle.job_id, handle.generation)
    assert manifest is not None
    assert manifest.missing == (2,)
    outputs = {file.path: file.node for file in manifest.files if file.path.startswith("outputs/")}
    assert outputs == {"outputs/rank-0.txt": 0, "outputs/rank-1.txt": 1, "outputs/same.txt": 0}
    assert {file.path for file in manifest.files if file.path.startswith("ranks/") and file.path.endswith(".log")} == {
        *(f"ranks/rank-{n}.log" for n in range(2)),
        *(f"ranks/torchrun-{n}.log" for n in range(2)),
    }
    ends = {rank["rank"]: rank.get("exit_code") for rank in record["ranks"]}  # type: ignore[attr-defined]
    assert ends == {0: 0, 1: 0, 2: None}


def test_a_lost_node_comes_back_where_the_target_can_start_it_again(lab: Lab, environment: EnvironmentRef) -> None:
    plan = elastic_plan(TRAIN, lab.store.uri, (2, 3), arguments=("30", "3"), environment=environment)
    handle = lab.submit(plan)
    wait_for_epoch(lab, handle, 1, 5)
    kill_node(lab, handle, 1)
    outcome, events = lab.wait(handle, 300.0)
    assert outcome.state is RunState.COMPLETED, (outcome.verdict, notes(events), lines(events))
    assert set(weights(events)) == {0, 1, 2}
    assert len(set(weights(events).values())) == 1
    assert all(text.endswith("of 3") for text in weights(events).values())
    assert "is back" in notes(events)
    [lost] = lab.record(handle)["lost"]  # type: ignore[misc]
    assert lost["back"] > lost["at"]  # type: ignore[index]
    manifest = RunStore(lab.store.uri, lab.store.access).manifest(handle.job_id, handle.generation)
    assert manifest is not None
    assert manifest.missing == ()
    assert left(lab, handle) == []


@pytest.mark.usefixtures("no_restarts")
def test_below_the_least_number_it_fails_by_the_name_of_the_node_lost_first(lab: Lab, environment: EnvironmentRef) -> None:
    plan = elastic_plan(TRAIN, lab.store.uri, (2, 3), arguments=("1000", "2"), environment=environment)
    handle = lab.submit(plan)
    wait_for_epoch(lab, handle, 2, 2)
    os.kill(liveness.pids(str(lab.paths(handle, 2).root))[-1], signal.SIGTERM)  # as a host that is shut down does it
    lab.wait_for_line(handle, "is being shut down")
    kill_node(lab, handle, 1)
    outcome, events = lab.wait(handle, 300.0)
    assert outcome.state is RunState.FAILED
    assert outcome.verdict is not None
    assert (outcome.verdict.cause, outcome.verdict.node) == (Cause.NODE, 2)
    summary = outcome.verdict.summary()
    assert summary.startswith("node 2 (")
    assert "is being shut down" in summary
    assert ", then node 1 (" in summary
    assert "1 of 3 nodes is left, the run needs 2" in summary
    assert left(lab, handle) == [], notes(events)


def test_a_rank_that_fails_by_itself_ends_the_run(lab: Lab, environment: EnvironmentRef) -> None:
    code = "import os, time\nif os.environ['RANK'] == '1':\n raise ValueError('no such digit: 11')\ntime.sleep(600)"
    handle = lab.submit(elastic_plan(code, lab.store.uri, (1, 2), ranks=2, environment=environment))
    outcome, events = lab.wait(handle, 300.0)
    assert outcome.state is RunState.FAILED
    assert outcome.verdict is not None
    assert outcome.verdict.cause is Cause.RANK, (outcome.verdict, lines(events))
    assert "ValueError: no such digit: 11 (exit 1)" in outcome.verdict.summary()
    assert left(lab, handle) == []


def test_the_loss_of_the_leader_ends_the_run(lab: Lab, environment: EnvironmentRef) -> None:
    handle = lab.submit(elastic_plan(TRAIN, lab.store.uri, (1, 2), arguments=("1000", "2"), environment=environment))
    wait_for_epoch(lab, handle, 1, 2)
    kill_node(lab, handle, 0)
    outcome, events = lab.wait(handle, 300.0)
    assert outcome.state is RunState.FAILED
    assert outcome.verdict is not None
    assert (outcome.verdict.cause, outcome.verdict.node) == (Cause.NODE, 0), outcome.verdict
    assert "the leader was lost" in notes(events)
    assert left(lab, handle) == []


@pytest.mark.usefixtures("no_restarts")
def test_a_lost_container_is_survived(docker_lab: DockerLab, locked: EnvironmentRef) -> None:
    plan = elastic_plan(TRAIN, docker_lab.store.uri, (1, 2), arguments=("30", "1", "20"), environment=locked)
    handle = docker_lab.submit(plan)
    docker_lab.wait_for_line(handle, '"epoch 20"', node=1, limit=240.0)
    bucket, keys = RunStore(docker_lab.store.uri, docker_lab.store.access).bucket, RunKeys(job_id=handle.job_id, generation=1)
    wait_until(
        lambda: any(bucket.get_json(keys.checkpoint_marker(node)) for node in (0, 1)), 120.0, 0.2, "a checkpoint is stored"
    )
    docker_lab.container(handle, 1).kill()
    outcome, events = docker_lab.wait(handle, 300.0)
    assert outcome.state is RunState.COMPLETED, (outcome.verdict, notes(events), lines(events))
    first, again = begins(events, 0)
    # torchrun counts by address: where the lost node was rank 0, only the store has the checkpoint, of a few seconds ago
    assert first in ("begin 0 as 0 of 2", "begin 0 as 1 of 2")
    assert int(again.split()[1]) > 0
    assert again.endswith("as 0 of 1")
    assert "node 1 (" in notes(events)
    assert [(entry["node"], entry["back"]) for entry in docker_lab.record(handle)["lost"]] == [(1, None)]


def watched_by_two(lab: DockerLab | HostsLab, handle: JobHandle) -> tuple[Outcome, list[Event]]:
    """Wait for a run's end with two sessions at once, either of which may bring nodes back."""

    async def watch() -> list[list[Event]]:
        both = asyncio.gather(lab.events(handle), lab.events(handle))
        return list(await asyncio.wait_for(both, 300.0))

    first, second = (sorted(events, key=lambda e: e.node) for events in asyncio.run(watch()))
    assert [e for e in first if e.kind != END] == [e for e in second if e.kind != END]
    [end] = [e for e in first if e.kind == END]
    return Outcome.from_event(handle, end), first


def check_came_back(outcome: Outcome, events: list[Event], record: dict[str, Any]) -> None:
    """Node 1 of two was lost and came back, once, and both have trained the same to the end."""
    assert outcome.state is RunState.COMPLETED, (outcome.verdict, notes(events), lines(events))
    assert set(weights(events)) == {0, 1}
    assert len(set(weights(events).values())) == 1
    assert all(text.endswith("of 2") for text in weights(events).values())
    assert notes(events).count("is back") == 1
    [lost] = record["lost"]
    assert lost["node"] == 1
    assert lost["back"] > lost["at"]


def test_a_lost_container_comes_back(docker_lab: DockerLab, locked: EnvironmentRef) -> None:
    plan = elastic_plan(TRAIN, docker_lab.store.uri, (1, 2), arguments=("50", "2"), environment=locked)
    handle = docker_lab.submit(plan)
    docker_lab.wait_for_line(handle, '"epoch 2"', node=1, limit=240.0)
    docker_lab.container(handle, 1).kill()
    outcome, events = watched_by_two(docker_lab, handle)
    check_came_back(outcome, events, docker_lab.record(handle))
    docker_lab.target.release(handle)
    assert docker_lab.left(handle.job_id) == []


@pytest.fixture
def environment_there(hosts_lab: HostsLab, environment: EnvironmentRef) -> EnvironmentRef:
    """Show the environment, and the Python that it is made of, to the hosts."""
    for host in hosts_lab.rack.hosts[:2]:
        host.show(Path(environment.interpreter).parents[1])
        host.show(Path(sys.base_prefix), but="site-packages")
    return environment


def test_a_rebooted_host_comes_back(hosts_lab: HostsLab, environment_there: EnvironmentRef) -> None:
    plan = elastic_plan(TRAIN, hosts_lab.store.uri, (1, 2), arguments=("50", "2"), environment=environment_there)
    handle = hosts_lab.submit(plan)
    hosts_lab.wait_for(handle, '"epoch 2"', node=1, limit=240.0)
    hosts_lab.node(handle, 1)[0].reboot()
    outcome, events = watched_by_two(hosts_lab, handle)
    check_came_back(outcome, events, hosts_lab.record(handle))
    assert hosts_lab.living(handle) == []
