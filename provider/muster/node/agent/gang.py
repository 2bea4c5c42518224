"""Gang: all nodes of an attempt as the leader sees them: who is there, what they reported, who failed first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Protocol

from muster.core import event
from muster.core.codec import from_data
from muster.core.plan import JobPlan
from muster.core.verdict import Cause, Verdict
from muster.node import mesh
from muster.node.agent.elastic_exits import ElasticExitTracker
from muster.node.agent.executor import NodeExecutor
from muster.node.agent.exits import End, ExitTracker
from muster.node.mesh import PeerFailed, PeerLost

if TYPE_CHECKING:
    from muster.node.agent.elastic import ElasticMembership

# what a node was asked that could not do it, in words
_ASKED = {
    "facts": "look at itself",
    "packages": "list its packages",
    "open_doors": "open ports for the others to try",
    "try_doors": "try the other nodes",
    "restore": "put its checkpoints in place",
    "ports": "find free ports",
    "start": "start its ranks",
    "spawner": "start what starts its ranks",
    "stop": "end its ranks",
    "files": "store its files",
    "place": "store its files",
}


class NodeFailed(PeerFailed):
    """A node that is needed could not do what it was asked; carries the verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.summary())
        self.verdict = verdict


class Member(Protocol):
    """A node that can be asked to do something; ``lost`` is done, with the reason, once it is gone."""

    lost: asyncio.Future[str]

    async def ask(self, do: str, **fields: Any) -> Any:
        """Have the node do something and give its answer.

        :raises PeerLost: the node is gone.
        :raises PeerFailed: it could not do it.
        """
        ...


class LocalMember:
    """The leader's own node as a member."""

    def __init__(self, work: NodeExecutor) -> None:
        self._work = work
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ask(self, do: str, **fields: Any) -> Any:
        """Do it here.

        :raises PeerFailed: it could not be done.
        """
        try:
            return await self._work.handle({"do": do, **fields})
        except Exception as error:
            raise PeerFailed(mesh.told(error)) from error


class Gang:
    """Members and facts by node; ``ends`` of the ranks."""

    def __init__(self, plan: JobPlan, work: NodeExecutor, halt: asyncio.Future[Verdict]) -> None:
        self._halt = halt
        self._plan = plan
        self._members: dict[int, Member] = {0: LocalMember(work)}
        self._changed = asyncio.Event()
        self._clock_offsets: dict[int, float] = {}
        self.facts: dict[int, dict[str, Any]] = {}
        self.ends = ElasticExitTracker(plan) if plan.elastic else ExitTracker(plan)
        self.survival: ElasticMembership | None = None
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
        comes_back = self.survival is not None and self.survival.begun
        if (node in self._members and not self._members[node].lost.done()) or (comes_back and not self._may_come_back()):
            return False
        self._members[node] = peer
        peer.lost.add_done_callback(lambda lost: self._on_lost(node, peer, lost.result()))
        self._clock_offsets[node] = message["clock"] - time.time()
        self.facts[node] = message["facts"]
        self._changed.set()
        if self.survival is not None and comes_back:
            self.survival.back(node)
        return True

    def _may_come_back(self) -> bool:
        return self.survival is not None and self.survival.admits()

    def _on_lost(self, node: int, peer: mesh.Peer, why: str) -> None:
        if self.survival is not None and self._members[node] is peer:
            self.survival.lost(node, why)

    def dismiss(self, node: int, why: str) -> None:
        """Do without a node that is there; it counts as lost."""
        member = self._members[node]
        if isinstance(member, mesh.Peer):
            member.give_up(why)

    async def gather(self, give_up: float) -> None:
        """Wait until every node is there; ``give_up`` in seconds since the epoch.

        :raises TimeoutError: some are missing; the message names them.
        """
        self.facts[0] = await self.ask(0, "facts")
        while missing := self.missing():
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), timeout=max(give_up - time.time(), 0.1))
            except asyncio.TimeoutError:
                raise TimeoutError(f"nodes {missing} did not report in time") from None

    def missing(self) -> list[int]:
        """Give the nodes that have not reported."""
        return [node.node for node in self._plan.nodes if node.node not in self.facts]

    def clocks(self) -> dict[int, float]:
        """Give how many seconds each node's clock was ahead of ours when it reported."""
        return {0: 0.0, **self._clock_offsets}

    # -- asking

    async def ask_all(self, do: str, **fields: Any) -> dict[int, Any]:
        """Ask every node that is there, all at once; gives the answers of those that stayed.

        :raises NodeFailed: one could not do it, and the run can't go on without it.
        """
        answers = await self._outcomes(do, **fields)
        for answer in answers.values():
            if isinstance(answer, BaseException):
                raise answer
        return answers

    async def _outcomes(self, do: str, **fields: Any) -> dict[int, Any]:
        """Ask every node that is there; gives the answers of those that stayed, or what they raised."""
        present = self.present()
        answers = await asyncio.gather(*(self.ask(n, do, **fields) for n in present), return_exceptions=True)
        return {n: answer for n, answer in zip(present, answers, strict=True) if not isinstance(answer, PeerLost)}

    async def ask(self, node: int, do: str, **fields: Any) -> Any:
        """Ask one node.

        :raises PeerLost: it is gone, or could not do it and is lost by that, where the run goes on without it.
        :raises NodeFailed: it could not do it.
        """
        try:
            return await self._members[node].ask(do, **fields)
        except PeerFailed as error:
            why = f"could not {_ASKED.get(do, f'do what it was asked ({do})')}: {error}"
            if self._can_lose(node):
                self.dismiss(node, f"it {why}")
                raise PeerLost(why) from None
            detail = f"node {node} ({self.host(node)}) {why}"
            raise NodeFailed(Verdict(cause=Cause.NODE, node=node, host=self.host(node), detail=detail)) from None

    def _can_lose(self, node: int) -> bool:
        """Whether the run may go on without a node; never without the leader's own."""
        return node != 0 and self.survival is not None and self.survival.begun

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

    def losses(self) -> list[asyncio.Future[Any]]:
        """Give what becomes done when a node is lost without which the run can't go on."""
        if self.survival is not None and self.survival.begun:
            return [self._members[0].lost, self.survival.broken]
        return [member.lost for member in self._members.values()]

    async def stop(self, within: float) -> None:
        """End every rank of every node; what the nodes then report is the last word on how each rank ended."""
        try:
            answers = await asyncio.wait_for(self._outcomes("stop"), timeout=within)
        except asyncio.TimeoutError:
            return
        for node in sorted(answers, reverse=True):
            if isinstance(answers[node], BaseException):
                self._work.log.add(event.NOTE, level="error", text=str(answers[node]))
                continue
            self.metrics.update(answers[node]["metrics"])
            for end in answers[node]["ranks"]:
                self.ends.note(end)

    # -- deciding

    def _on_push(self, do: str, **fields: Any) -> None:
        if do == "halt":
            self._on_halt(from_data(Verdict, fields["verdict"]))
        if do == "shell_says":
            self._work.show_shell(**fields)
        if do == "rank_ended":
            self.ends.add(fields["end"])

    def _on_halt(self, verdict: Verdict) -> None:
        """End the run as a node wishes; a node that has to leave is only lost where that is survived."""
        if verdict.cause is Cause.NODE and verdict.node is not None and self._can_lose(verdict.node):
            self.dismiss(verdict.node, verdict.detail)
        elif not self._halt.done():
            self._halt.set_result(verdict)

    def first_failed_end(self) -> End | None:
        """Give the end of the deciding rank that failed first, None if none failed."""
        return self.ends.first_failed(self._clock_offsets)

    def first_failure(self) -> Verdict | None:
        """Give the verdict on what failed first; the others are its victims."""
        return self.ends.verdict(self._clock_offsets, {node: self.host(node) for node in self.facts})

    def lost_verdict(self) -> Verdict | None:
        """Give the verdict on the first node found lost; None while all are there that the run needs."""
        if self.survival is not None and self.survival.begun:
            return self.survival.broken.result() if self.survival.broken.done() else None
        for node, member in sorted(self._members.items()):
            if member.lost.done():
                detail = f"node {node} ({self.host(node)}) was lost: {member.lost.result()}; all ranks were ended"
                return Verdict(cause=Cause.NODE, node=node, host=self.host(node), detail=detail)
        return None

    def survives(self) -> bool:
        """Whether the run goes on without the nodes that have been lost up to now."""
        return self.survival is not None and self.survival.begun and not self.survival.broken.done()

    def suffice(self, nodes: Collection[int]) -> bool:
        """Whether these nodes are enough for a result."""
        return len(nodes) >= (self._plan.min_nodes if self._plan.elastic else len(self._plan.nodes))

    def shared_host(self) -> str:
        """Say "yes" if several nodes are one machine, else ""."""
        hosts = [facts["host"] for facts in self.facts.values()]
        return "yes" if len(set(hosts)) < len(hosts) else ""

    def host(self, node: int) -> str:
        """Give a node's host name."""
        return str(self.facts.get(node, {}).get("host", ""))
