"""Gang: all nodes of an attempt as the leader sees them: who is there, what they reported, who failed first."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

from muster.core.codec import from_data
from muster.core.plan import JobPlan
from muster.core.verdict import Cause, Verdict
from muster.node import mesh
from muster.node.ends import End, Ends
from muster.node.mesh import PeerLost
from muster.node.work import NodeWork


class Member(Protocol):
    """A node that can be asked to do something; ``lost`` is done, with the reason, once it is gone."""

    lost: asyncio.Future[str]

    async def ask(self, do: str, **fields: Any) -> Any:
        """Have the node do something and give its answer.

        :raises PeerLost: the node is gone.
        """
        ...


class OwnNode:
    """The leader's own node as a member."""

    def __init__(self, work: NodeWork) -> None:
        self._work = work
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ask(self, do: str, **fields: Any) -> Any:
        """Do it here."""
        return await self._work.handle({"do": do, **fields})


class Gang:
    """Members and facts by node; ``ends`` of the ranks."""

    def __init__(self, plan: JobPlan, work: NodeWork, halt: asyncio.Future[Verdict]) -> None:
        self._halt = halt
        self._plan = plan
        self._members: dict[int, Member] = {0: OwnNode(work)}
        self._changed = asyncio.Event()
        self._clock_offsets: dict[int, float] = {}
        self.facts: dict[int, dict[str, Any]] = {}
        self.ends = Ends(plan)
        self.metrics: dict[str, float] = {}
        self._work = work
        work.push = self._on_push
        work.ask = self.ask

    # -- arriving

    async def on_peer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of another agent, until it is gone."""

        async def answer(message: dict[str, Any]) -> Any:
            if message["do"] == "hello":
                return self._welcome(peer, message)
            self._on_push(**message)
            return None

        peer = mesh.Peer(reader, writer, answer)
        await peer.serve()

    def _welcome(self, peer: mesh.Peer, message: dict[str, Any]) -> bool:
        node = int(message["node"])
        if node in self._members and not self._members[node].lost.done():
            return False
        self._members[node] = peer
        self._clock_offsets[node] = message["clock"] - time.time()
        self.facts[node] = message["facts"]
        self._changed.set()
        return True

    async def gather(self, give_up: float) -> None:
        """Wait until every node is there; ``give_up`` in seconds since the epoch.

        :raises TimeoutError: some are missing; the message names them.
        """
        self.facts[0] = await self._members[0].ask("facts")
        while missing := [node.node for node in self._plan.nodes if node.node not in self.facts]:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), timeout=max(give_up - time.time(), 0.1))
            except asyncio.TimeoutError:
                raise TimeoutError(f"nodes {missing} did not report in time") from None

    # -- asking

    async def ask_all(self, do: str, **fields: Any) -> dict[int, Any]:
        """Ask every node that is there, all at once; gives the answers of those that stayed."""
        present = self.present()
        answers = await asyncio.gather(*(self._members[n].ask(do, **fields) for n in present), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, PeerLost):
                raise answer
        return {n: answer for n, answer in zip(present, answers, strict=True) if not isinstance(answer, PeerLost)}

    async def ask(self, node: int, do: str, **fields: Any) -> Any:
        """Ask one node."""
        return await self._members[node].ask(do, **fields)

    def push(self, do: str, **fields: Any) -> None:
        """Tell all others something that wants no answer."""
        for member in self._members.values():
            if isinstance(member, mesh.Peer):
                member.push(do, **fields)

    async def close(self) -> None:
        """Send what is still to be sent, and close all connections."""
        await asyncio.gather(*(m.close() for m in self._members.values() if isinstance(m, mesh.Peer)))

    def present(self) -> list[int]:
        """Give the nodes that are there."""
        return sorted(node for node, member in self._members.items() if not member.lost.done())

    def losses(self) -> list[asyncio.Future[str]]:
        """Give what becomes done when a node is lost."""
        return [member.lost for member in self._members.values()]

    async def stop(self, within: float) -> None:
        """End every rank of every node; what the nodes then report is the last word on how each rank ended."""
        try:
            answers = await asyncio.wait_for(self.ask_all("stop"), timeout=within)
        except asyncio.TimeoutError:
            return
        for node in sorted(answers, reverse=True):
            self.metrics.update(answers[node]["metrics"])
            for end in answers[node]["ranks"]:
                self.ends.by_rank[end["rank"]] = end

    # -- deciding

    def _on_push(self, do: str, **fields: Any) -> None:
        if do == "halt" and not self._halt.done():
            self._halt.set_result(from_data(Verdict, fields["verdict"]))
        if do == "shell_says":
            self._work.show_shell(**fields)
        if do == "rank_ended":
            self.ends.add(fields["end"])

    def first_failed_end(self) -> End | None:
        """Give the end of the deciding rank that failed first, None if none failed."""
        return self.ends.first_failed(self._clock_offsets)

    def first_failure(self) -> Verdict | None:
        """Give the verdict on what failed first; the others are its victims."""
        return self.ends.verdict(self._clock_offsets, {node: self.host(node) for node in self.facts})

    def lost_verdict(self) -> Verdict | None:
        """Give the verdict on the first node found lost; None while all are there."""
        for node, member in sorted(self._members.items()):
            if member.lost.done():
                detail = f"node {node} ({self.host(node)}) was lost: {member.lost.result()}; all ranks were ended"
                return Verdict(cause=Cause.NODE, node=node, host=self.host(node), detail=detail)
        return None

    def host(self, node: int) -> str:
        """Give a node's host name."""
        return str(self.facts.get(node, {}).get("host", ""))
