"""When ends decide an elastic run: a lost node's victims don't, a rank that fails by itself on a node that stays does."""

from __future__ import annotations

from typing import Any

import pytest

from muster.core.job import TrainingJob
from muster.core.plan import CONTINUE, EnvironmentRef, JobPlan
from muster.core.verdict import Cause
from muster.launchers import torchrun
from muster.node.agent import elastic_exits
from muster.node.agent.elastic_exits import ElasticExitTracker
from muster.node.ranks.diagnosis import RankExit
from muster.node.ranks.supervisor import SPAWNER

HOSTS = {0: "a", 1: "b", 2: "c"}


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> ElasticExitTracker:
    """Return the ends of three nodes with one rank each."""
    monkeypatch.setattr(elastic_exits, "LOSS_SHOWS", 0.01)
    monkeypatch.setattr(elastic_exits, "EXIT_GRACE", 30.0)
    job = TrainingJob(name="x", framework="pytorch", command=("x",), node_count=3, min_node_count=2)
    plan = JobPlan(
        name="x",
        framework="pytorch",
        nodes=torchrun.plan(job),
        snapshot="",
        environment=EnvironmentRef(),
        store="s3://b/p",
        on_node_loss=CONTINUE,
        min_nodes=2,
    )
    found = ElasticExitTracker(plan)
    found.start_round(range(3))
    return found


def end(node: int, code: int | None = 0, rank: int | None = None, **more: Any) -> RankExit:
    number = node if rank is None else rank
    return RankExit(node=node, rank=number, decides=number >= 0, exit_code=code, ended=1.0, **more)


async def test_all_ranks_and_starters_of_the_round_must_end_well(ends: ElasticExitTracker) -> None:
    ends.start_round((0, 1))
    for node in (0, 1):
        ends.add(end(node))
        assert not ends.decided.is_set()
    ends.add(end(0, rank=SPAWNER))
    assert not ends.decided.is_set()
    ends.add(end(1, rank=SPAWNER))
    assert ends.decided.is_set()
    assert ends.verdict({}, HOSTS) is None


async def test_a_node_takes_part_until_its_ranks_have_ended_well(ends: ElasticExitTracker) -> None:
    assert ends.takes_part(2)
    ends.add(end(2))
    assert not ends.takes_part(2)
    ends.add(end(1, 1))
    assert ends.takes_part(1)


async def test_failures_before_a_new_round_are_victims_of_the_loss(ends: ElasticExitTracker) -> None:
    ends.add(end(0, 1, detail="RuntimeError: connection closed by peer"))
    ends.end_round()
    ends.add(end(1, None, signal=15, victim=True))
    ends.start_round((0, 1))
    for node in (0, 1):
        ends.add(end(node))
        ends.add(end(node, rank=SPAWNER))
    await ends.decided.wait()
    assert ends.verdict({}, HOSTS) is None


async def test_a_failure_on_a_node_that_stays_decides_and_is_named(ends: ElasticExitTracker) -> None:
    ends.add(end(1, 1, detail="ValueError: no such digit: 11"))
    ends.add(end(1, 1, rank=SPAWNER, detail="ChildFailedError"))
    assert not ends.decided.is_set()
    await ends.decided.wait()
    ends.record(end(0, None, signal=15, victim=True))
    verdict = ends.verdict({}, HOSTS)
    assert verdict is not None
    assert (verdict.cause, verdict.rank, verdict.host, verdict.detail) == (Cause.RANK, 1, "b", "ValueError: no such digit: 11")


async def test_a_torchrun_that_fails_is_named_with_its_node(ends: ElasticExitTracker) -> None:
    ends.add(end(1, 1, rank=SPAWNER, detail="RendezvousTimeoutError: too late"))
    await ends.decided.wait()
    verdict = ends.verdict({}, HOSTS)
    assert verdict is not None
    assert verdict.cause is Cause.SPAWNER
    assert verdict.detail == "torchrun on node 1 (b) failed (exit 1): RendezvousTimeoutError: too late"


async def test_what_a_node_outside_the_round_says_does_not_count(ends: ElasticExitTracker) -> None:
    ends.start_round((0, 1))
    ends.add(end(2, 1, rank=SPAWNER))
    assert ends.first_failed({}) is None
    assert ends.verdict({}, HOSTS) is None
