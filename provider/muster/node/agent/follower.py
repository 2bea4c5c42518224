"""Follower: every agent but the leader's; it does what the leader asks, and ends its ranks when the leader is lost."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from muster.core import event
from muster.core.codec import to_data
from muster.core.verdict import Verdict
from muster.node import mesh
from muster.node.agent.executor import NodeExecutor
from muster.node.assignment import Assignment
from muster.node.reverse_probe import ReverseProbe

HALT_PATIENCE = 60.0  # seconds for the leader to end the run that this node wants ended
ORPHAN_PATIENCE = 30.0  # seconds for storing what a node has when its leader is gone


class Follower:
    """One node's agent, at the other end of the leader's mesh."""

    def __init__(self, assignment: Assignment, work: NodeExecutor, halt: asyncio.Future[Verdict]) -> None:
        self._a = assignment
        self._work = work
        self._halt = halt
        self._done = asyncio.Event()

    async def run(self) -> None:
        """Serve the leader until it says that all is done, or is lost.

        :raises PeerLost: there was no leader in the first place.
        """
        facts = asyncio.ensure_future(self._work.do_facts())
        give_up = time.monotonic() + self._a.mesh_patience(again=self._work.again)
        certificate = self._work.paths.certificate
        bell = ReverseProbe(self._a, certificate)
        opening = asyncio.ensure_future(bell.open_after())
        leader, marker = self._a.addresses[0], self._a.id.marker
        connecting = asyncio.ensure_future(mesh.connect(leader, marker, certificate, give_up, bell.tell))
        await asyncio.wait(_futures(connecting, self._halt, bell.over), return_when=asyncio.FIRST_COMPLETED)
        opening.cancel()
        bell.close()
        if not connecting.done():
            connecting.cancel()  # nothing has been started here yet
            return
        reader, writer = connecting.result()
        peer = mesh.Peer(reader, writer, self._answer)
        self._work.push = peer.push
        serving = asyncio.ensure_future(peer.serve())
        if not await peer.ask("hello", node=self._a.node, facts=await facts, clock=time.time()):
            raise mesh.PeerLost(f"the leader has a node {self._a.node} already")
        done = asyncio.ensure_future(self._done.wait())
        await asyncio.wait(_futures(peer.lost, self._halt, done), return_when=asyncio.FIRST_COMPLETED)
        if self._halt.done() and not done.done():
            self._work.end_ranks()
            peer.push("halt", verdict=to_data(self._halt.result()))
            await asyncio.wait(_futures(peer.lost, done), timeout=HALT_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        done.cancel()
        if not self._done.is_set():
            await self._end_alone(peer)
        await peer.close()
        serving.cancel()

    async def _answer(self, message: dict[str, object]) -> object:
        if message["do"] == "done":
            self._done.set()
            return None
        return await self._work.handle(message)

    async def _end_alone(self, peer: mesh.Peer) -> None:
        """End the ranks, with the leader's word or without, and store what there is."""
        why = self._halt.result().detail if self._halt.done() else f"the leader was lost: {peer.lost.result()}"
        self._work.log.add(event.NOTE, level="error", text=f"node {self._a.node} ends its ranks: {why}")
        await self._work.do_stop()
        if not self._a.plan.elastic:  # there the others go on, and a file of theirs may have the name of one of ours
            await self._work.do_files(patience=ORPHAN_PATIENCE)
        await self._work.do_last_words(patience=ORPHAN_PATIENCE)


def _futures(*futures: asyncio.Future[Any]) -> list[asyncio.Future[Any]]:
    return list(futures)
