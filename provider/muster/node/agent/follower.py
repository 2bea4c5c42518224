"""A follower: every agent but the leader's; serves the leader, and ends its ranks when the leader is lost."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from muster.core import event
from muster.core.verdict import Verdict
from muster.node import mesh
from muster.node.agent.commands import Halt, Join, Leave
from muster.node.agent.executor import NodeExecutor
from muster.node.assignment import Assignment
from muster.node.reverse_probe import ReverseProbe
from muster.node.rpc import Commands

HALT_TIMEOUT = 60.0  # seconds for the leader to end the run that this node wants ended
ORPHAN_TIMEOUT = 30.0  # seconds for storing what a node has when its leader is gone


class Follower:
    """One node's agent, at the other end of the leader's mesh."""

    def __init__(self, assignment: Assignment, executor: NodeExecutor, halt: asyncio.Future[Verdict]) -> None:
        self._a = assignment
        self._executor = executor
        self._halt = halt
        self._done = asyncio.Event()

    async def run(self) -> None:
        """Serve the leader until the run is over, or the leader is lost.

        :raises PeerLost: there was no leader in the first place.
        """
        facts = asyncio.ensure_future(self._executor.inspect())
        deadline = time.monotonic() + self._a.join_timeout(was_restarted=self._executor.was_restarted)
        certificate = self._executor.paths.certificate
        probe = ReverseProbe(self._a, certificate)
        opening = asyncio.ensure_future(probe.open_after())
        connecting = asyncio.ensure_future(
            mesh.connect(self._a.addresses[0], self._a.id.marker, certificate, deadline, probe.set_problem)
        )
        await asyncio.wait(_futures(connecting, self._halt, probe.over), return_when=asyncio.FIRST_COMPLETED)
        opening.cancel()
        probe.close()
        if not connecting.done():
            connecting.cancel()  # nothing has been started here yet
            return
        reader, writer = connecting.result()
        peer = mesh.Peer(reader, writer, Commands({Leave: lambda _: self._done.set(), **self._executor.handlers}))
        self._executor.push = peer.push
        serving = asyncio.ensure_future(peer.serve())
        if not await peer.ask(Join(node=self._a.node, facts=await facts, clock=time.time())):
            raise mesh.PeerLost(f"the leader has a node {self._a.node} already")
        done = asyncio.ensure_future(self._done.wait())
        await asyncio.wait(_futures(peer.lost, self._halt, done), return_when=asyncio.FIRST_COMPLETED)
        if self._halt.done() and not done.done():
            self._executor.end_ranks()
            peer.push(Halt(verdict=self._halt.result()))
            await asyncio.wait(_futures(peer.lost, done), timeout=HALT_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        done.cancel()
        if not self._done.is_set():
            await self._end_alone(peer)
        await peer.close()
        serving.cancel()

    async def _end_alone(self, peer: mesh.Peer) -> None:
        """End the ranks without the leader, and store what there is."""
        why = self._halt.result().detail if self._halt.done() else f"the leader was lost: {peer.lost.result()}"
        self._executor.log.add(event.NOTE, level="error", text=f"node {self._a.node} ends its ranks: {why}")
        await self._executor.stop()
        if not self._a.plan.elastic:  # there the others continue, and a file of theirs may have the name of one of ours
            await self._executor.store_files(ORPHAN_TIMEOUT)
        await self._executor.finish_log(ORPHAN_TIMEOUT)


def _futures(*futures: asyncio.Future[Any]) -> list[asyncio.Future[Any]]:
    return list(futures)
