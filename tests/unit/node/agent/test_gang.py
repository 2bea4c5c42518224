"""The gang: a node that could not do what it was asked is named, and lost where the run goes on without it."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any, cast

import pytest

from lab import plan_of
from muster.core.verdict import Cause, Verdict
from muster.node import mesh
from muster.node.agent.executor import NodeExecutor
from muster.node.agent.gang import Gang, NodeFailed

FULL = "No space left on device: /ranks/rank-0.log"


class Work:
    """Node 0's own work; fails at what is in ``fails``."""

    def __init__(self, *fails: str) -> None:
        self.log = self
        self.notes: list[str] = []
        self._fails = fails

    async def handle(self, message: dict[str, Any]) -> Any:
        if message["do"] in self._fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/ranks/rank-0.log")
        return {"ranks": [], "metrics": {"node": 0.0}}

    def add(self, kind: str, text: str = "", **data: Any) -> None:
        self.notes.append(text)


class Peer(mesh.Peer):
    """Another node; fails at what is in ``fails``."""

    def __init__(self, *fails: str) -> None:
        self.lost = asyncio.get_running_loop().create_future()
        self._fails = fails

    async def ask(self, do: str, **fields: Any) -> Any:
        if do in self._fails:
            raise mesh.PeerFailed(FULL)
        return {"ranks": [], "metrics": {"node": 1.0}}

    def give_up(self, reason: str) -> None:
        self.lost.set_result(reason)


class ElasticMembership:
    begun = True


def gang_of(work: Work, *others: Peer) -> Gang:
    halt: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
    gang = Gang(plan_of("pass", "s3://b/p", nodes=1 + len(others)), cast(NodeExecutor, work), halt)
    gang._members.update(enumerate(others, start=1))
    gang.facts = {node: {"host": "abc"[node]} for node in range(1 + len(others))}
    return gang


@pytest.mark.parametrize("node", [0, 1])
async def test_a_node_that_can_not_start_its_ranks_is_named(node: int) -> None:
    gang = gang_of(Work(*["start"][node:]), Peer(*["start"][: 1 if node else 0]))
    with pytest.raises(NodeFailed) as failed:
        await gang.ask_all("start")
    verdict = failed.value.verdict
    assert (verdict.cause, verdict.node, verdict.host) == (Cause.NODE, node, "ab"[node])
    assert verdict.detail == f"node {node} ({'ab'[node]}) could not start its ranks: {FULL}"
    assert gang.present() == [0, 1]


async def test_where_losses_are_survived_it_is_lost_but_for_the_leaders_own() -> None:
    gang = gang_of(Work("files"), Peer("start"), Peer("spawner"))
    gang.survival = ElasticMembership()  # type: ignore[assignment]
    assert set(await gang.ask_all("start")) == {0, 2}
    with pytest.raises(mesh.PeerLost):
        await gang.ask(2, "spawner")
    assert gang.present() == [0]
    with pytest.raises(NodeFailed, match=r"node 0 \(a\) could not store its files: No space"):
        await gang.ask_all("files")


async def test_one_that_can_not_end_its_ranks_does_not_keep_the_others_reports_back() -> None:
    work = Work("stop")
    gang = gang_of(work, Peer())
    await gang.stop(within=60.0)
    assert gang.metrics == {"node": 1.0}
    assert work.notes == [f"node 0 (a) could not end its ranks: {FULL}"]
