"""The gang: a node that could not do what it was asked is named, and lost where the run goes on without it."""

from __future__ import annotations

import asyncio
import errno
import os
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lab import plan_of
from muster.core.verdict import Cause, Verdict
from muster.node import mesh
from muster.node.agent.commands import Join, RanksStopped, StartRanks, StartSpawner, StopRanks, StoreFiles
from muster.node.agent.executor import NodeExecutor
from muster.node.agent.gang import FixedMembership, Gang, NodeFailed
from muster.node.preflight.facts import broken
from muster.node.rpc import CommandFailed, Handler, Request

START = StartRanks(hosts=(), ports=(), local_bindings=())
FULL = "No space left on device: /ranks/rank-0.log"


class Work:
    """Node 0's own work; fails at what is in ``fails``."""

    def __init__(self, *fails: type[Request[Any]]) -> None:
        self.log = self
        self.notes: list[str] = []
        self.handlers: dict[type[Request[Any]], Handler] = {
            StartRanks: lambda _: None,
            StopRanks: lambda _: RanksStopped(metrics={"node": 0.0}),
            **dict.fromkeys(fails, self._fail),
        }

    async def _fail(self, request: Request[Any]) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/ranks/rank-0.log")

    def forward_output(self, output: Any) -> None:
        """Nobody has written anything."""

    def add(self, kind: str, text: str = "", **data: Any) -> None:
        self.notes.append(text)


class Peer(mesh.Peer):
    """Another node; fails at what is in ``fails``."""

    def __init__(self, *fails: type[Request[Any]]) -> None:
        self.lost = asyncio.get_running_loop().create_future()
        self._fails = fails

    async def ask(self, request: Any) -> Any:
        if type(request) in self._fails:
            raise CommandFailed(FULL)
        return RanksStopped(metrics={"node": 1.0})

    def disconnect(self, why: str) -> None:
        self.lost.set_result(why)


class Survives(FixedMembership):
    """Every node but the leader's own may be lost."""

    def can_lose(self, node: int) -> bool:
        return node != 0


def gang_of(work: Work, *others: Peer, membership: type[FixedMembership] = FixedMembership) -> Gang:
    halt: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
    plan = plan_of("pass", "s3://b/p", nodes=1 + len(others))
    gang = Gang(plan, cast(NodeExecutor, work), halt, membership(plan))
    gang.members.update(enumerate(others, start=1))
    gang.facts = {node: cast(Any, SimpleNamespace(host="abc"[node])) for node in range(1 + len(others))}
    return gang


@pytest.mark.parametrize("node", [0, 1])
async def test_a_node_that_can_not_start_its_ranks_is_named(node: int) -> None:
    gang = gang_of(Work(*[StartRanks][node:]), Peer(*[StartRanks][: 1 if node else 0]))
    with pytest.raises(NodeFailed) as failed:
        await gang.ask_all(START)
    verdict = failed.value.verdict
    assert (verdict.cause, verdict.node, verdict.host) == (Cause.NODE, node, "ab"[node])
    assert verdict.detail == f"node {node} ({'ab'[node]}) could not start its ranks: {FULL}"
    assert gang.present() == [0, 1]


async def test_where_losses_are_survived_it_is_lost_but_for_the_leaders_own() -> None:
    gang = gang_of(Work(StoreFiles), Peer(StartRanks), Peer(StartSpawner), membership=Survives)
    assert set(await gang.ask_all(START)) == {0, 2}
    with pytest.raises(mesh.PeerLost):
        await gang.ask(2, StartSpawner())
    assert gang.present() == [0]
    with pytest.raises(NodeFailed, match=r"node 0 \(a\) could not store its files: No space"):
        await gang.ask_all(StoreFiles(timeout=1.0))


async def test_one_that_can_not_end_its_ranks_does_not_keep_the_others_reports_back() -> None:
    work = Work(StopRanks)
    gang = gang_of(work, Peer())
    await gang.stop()
    assert gang.metrics == {"node": 1.0}
    assert work.notes == [f"node 0 (a) could not end its ranks: {FULL}"]


async def test_a_second_node_of_the_same_number_is_refused_as_long_as_the_first_is_there() -> None:
    gang = gang_of(Work(), Peer())
    first, second, third = gang.members[1], Peer(), Peer()
    join = Join(node=1, facts=broken(1, "as it is now"), clock=0.0)
    assert isinstance(first, Peer)
    assert not gang._join(second, join)
    assert gang.members[1] is first
    assert gang.host(1) == "b"
    first.disconnect("its connection closed")
    assert gang._join(third, join)
    assert gang.members[1] is third
    assert gang.facts[1] == join.facts
    assert not gang._join(second, join)
