"""When ends decide a run, and whom the verdict names."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from muster.core.plan import EnvironmentRef, JobPlan, NodePlan, RankPlan, Spawner
from muster.core.verdict import Cause, Verdict
from muster.node.agent import exits
from muster.node.agent.exits import ExitTracker
from muster.node.ranks.diagnosis import RankExit
from muster.node.ranks.supervisor import SPAWNER

MPIRUN = Spawner(name="mpirun", argv=("mpirun",), rank_variable="RANK", local_rank_variable="LOCAL")
HOSTS = {0: "a", 1: "b", 2: "c"}


def ends_of(spawner: Spawner | None, ranks: int = 3) -> ExitTracker:
    nodes = (
        NodePlan(node=n, ranks=(RankPlan(rank=n, local_rank=0, argv=("x",)),), starter=spawner if n == 0 else None)
        for n in range(ranks)
    )
    plan = JobPlan(name="x", framework="any", nodes=tuple(nodes), snapshot="", environment=EnvironmentRef(), store="s3://b/p")
    return ExitTracker(plan)


def end(rank: int, code: int | None = 0, at: float = 1.0, **more: Any) -> RankExit:
    return RankExit(node=max(rank, 0), rank=rank, decides=rank >= 0, exit_code=code, ended=at, **more)


def killed(rank: int, at: float = 1.0) -> RankExit:
    return end(rank, None, at, signal=9, victim=True)


def verdict(found: ExitTracker, offsets: dict[int, float] | None = None) -> Verdict | None:
    return found.verdict(offsets or {}, HOSTS)


async def test_without_a_starter_all_ranks_decide() -> None:
    found = ends_of(None)
    for rank in range(3):
        assert not found.decided.is_set()
        found.add(end(rank))
    assert found.decided.is_set()
    assert verdict(found) is None


async def test_the_starter_must_end_well_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "EXIT_GRACE", 30.0)
    found = ends_of(MPIRUN)
    for rank in range(3):
        found.add(end(rank))
    assert not found.decided.is_set()
    found.add(end(SPAWNER))
    assert found.decided.is_set()
    assert verdict(found) is None


async def test_a_starter_that_never_leaves_spoils_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "EXIT_GRACE", 0.01)
    found = ends_of(MPIRUN)
    for rank in range(3):
        found.add(end(rank))
    await asyncio.wait_for(found.decided.wait(), 60)
    found.by_rank[SPAWNER] = killed(SPAWNER)  # by us, in the end
    assert verdict(found) is None


async def test_a_rank_that_fails_decides_at_once_and_is_named() -> None:
    found = ends_of(MPIRUN)
    found.add(end(1, 3, at=5.0, detail="ValueError"))
    assert found.decided.is_set()
    found.add(killed(0, at=4.0))
    found.add(end(SPAWNER, 3, at=4.5, detail="a process exited with 3"))
    named = verdict(found)
    assert named is not None
    assert (named.cause, named.rank, named.exit_code, named.others, named.host) == (Cause.RANK, 1, 3, 1, "b")


async def test_a_wordless_end_waits_for_one_that_says_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "REPORT_GRACE", 0.01)
    found = ends_of(MPIRUN)
    found.add(end(0, 14, at=5.0))
    assert not found.decided.is_set()
    found.add(end(1, 3, at=5.02, detail="ValueError: no such wind"))
    assert found.decided.is_set()
    named = verdict(found)
    assert named is not None
    assert (named.rank, named.exit_code) == (1, 3)


async def test_a_wordless_end_long_before_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "REPORT_GRACE", 0.01)
    found = ends_of(MPIRUN)
    found.add(end(0, 14, at=5.0))
    await asyncio.wait_for(found.decided.wait(), 60)
    found.add(end(1, 3, at=6.0, detail="ConnectionError: rank 0 is gone"))
    named = verdict(found)
    assert named is not None
    assert (named.rank, named.exit_code) == (0, 14)


async def test_clocks_that_are_off_do_not_change_who_was_first() -> None:
    found = ends_of(None)
    found.add(end(0, 1, at=10.0))
    found.add(end(1, 1, at=109.0))
    named = verdict(found, {1: 100.0})
    assert named is not None
    assert named.rank == 1


async def test_what_the_starter_killed_waits_for_the_starters_own_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "REPORT_GRACE", 0.01)
    monkeypatch.setattr(exits, "EXIT_GRACE", 30.0)
    found = ends_of(MPIRUN)
    found.add(killed(0))
    found.add(killed(1))
    assert not found.decided.is_set()
    found.add(end(SPAWNER, 1, detail="There are not enough slots"))
    await asyncio.wait_for(found.decided.wait(), 60)
    named = verdict(found)
    assert named is not None
    assert named.cause is Cause.SPAWNER
    assert named.summary() == "mpirun on node 0 (a) failed (exit 1): There are not enough slots"


async def test_a_starter_that_leaves_ranks_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "EXIT_GRACE", 0.01)
    found = ends_of(MPIRUN)
    found.add(end(0))
    found.add(end(SPAWNER))
    await asyncio.wait_for(found.decided.wait(), 60)
    named = verdict(found)
    assert named is not None
    assert "had not started all ranks: ranks 1, 2 missing" in named.summary()


async def test_a_new_start_is_not_decided_by_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "EXIT_GRACE", 0.01)
    found = ends_of(MPIRUN)
    found.add(end(SPAWNER))
    found.reset()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(found.decided.wait(), 0.05)
    assert found.by_rank == {}
