"""ElasticMembership: whatever keeps ranks from being started anew ends the run, with a verdict that says so."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from muster.core.verdict import Cause, Verdict
from muster.node.agent.commands import StartRanks
from muster.node.agent.elastic import ElasticMembership
from muster.node.agent.gang import NodeFailed
from muster.node.mesh import PeerLost

FULL = Verdict(cause=Cause.NODE, node=0, host="a", detail="node 0 (a) could not start its ranks: No space left on device")


class Gang:
    """Three nodes, of which those in ``there`` are left; ``raises`` is what comes of asking them, one after the other."""

    def __init__(self) -> None:
        self.there = [0, 1, 2]
        self.raises: list[Exception] = []
        self.started: list[list[int]] = []

    def present(self) -> list[int]:
        return self.there

    def host(self, node: int) -> str:
        return "abc"[node]

    def shared_host(self) -> str:
        return ""

    async def stop(self) -> None:
        pass

    async def ask(self, node: int, request: Any) -> Any:
        return {"master": 6105}

    async def ask_all(self, request: Any) -> dict[int, Any]:
        if self.raises:
            raise self.raises.pop(0)
        if isinstance(request, StartRanks):
            self.started.append(list(self.there))
        return {}


async def begun(gang: Any) -> ElasticMembership:
    """Return the membership of a run of two to three nodes, all of which have been started."""
    nodes = tuple(SimpleNamespace(node=node, ranks=()) for node in range(3))
    plan = SimpleNamespace(nodes=nodes, min_nodes=2, limits=SimpleNamespace(grace=1.0))
    assignment: Any = SimpleNamespace(plan=plan, job_id="j", generation=1)
    syncer = SimpleNamespace(notify=lambda request: asyncio.sleep(0))
    work: Any = SimpleNamespace(log=SimpleNamespace(add=lambda kind, **data: None), syncer=syncer, secrets={})
    exits: Any = SimpleNamespace(end_round=lambda: None, start_round=lambda nodes: None, takes_part=lambda node: True)
    choice: Any = SimpleNamespace(addresses=("10.0.0.1",) * 3, local_bindings=lambda: [{}, {}, {}])
    record: Any = SimpleNamespace(data={})
    membership = ElasticMembership(assignment, work, record)
    membership.exits, membership.gang = exits, gang
    await membership.start(choice)
    return membership


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (NodeFailed(FULL), FULL.detail),
        (KeyError("ports"), "node 0 (a) could not restart the ranks: KeyError: 'ports'; all ranks were ended"),
    ],
)
async def test_ranks_that_can_not_be_started_anew_end_the_run(error: Exception, detail: str) -> None:
    gang = Gang()
    membership = await begun(gang)
    gang.there, gang.raises = [0, 1], [error]
    membership.lost(2, "its connection closed")
    verdict = await asyncio.wait_for(membership.broken, 60)
    assert (verdict.cause, verdict.node, verdict.host, verdict.detail) == (Cause.NODE, 0, "a", detail)
    assert not membership.admits()
    assert gang.started == [[0, 1, 2]]


async def test_a_loss_while_ranks_are_started_anew_is_survived() -> None:
    gang = Gang()
    membership = await begun(gang)
    gang.there, gang.raises = [0, 1], [PeerLost("gone")]
    membership.lost(2, "its connection closed")
    await asyncio.sleep(0)
    membership.lost(2, "gone")
    while len(gang.started) < 2:
        await asyncio.sleep(0)
    assert gang.started[-1] == [0, 1]
    assert not membership.broken.done()


async def test_every_node_but_the_leaders_own_can_be_lost() -> None:
    membership = await begun(Gang())
    assert [membership.can_lose(node) for node in range(3)] == [False, True, True]
