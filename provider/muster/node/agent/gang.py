"""The gang: all nodes of an attempt as the leader sees them, and the membership policy that decides which of them it needs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Collection
from typing import Any, Protocol, TypeVar

from muster.core import event
from muster.core.plan import JobPlan
from muster.core.verdict import Cause, Verdict
from muster.node import mesh
from muster.node.agent.commands import (
    Halt,
    InspectNode,
    Join,
    ReportExit,
    Restore,
    StartRanks,
    StartSpawner,
    StopRanks,
    StoreFiles,
    StoreUnderNames,
)
from muster.node.agent.executor import NodeExecutor
from muster.node.agent.exits import ExitTracker
from muster.node.mesh import PeerLost
from muster.node.preflight import network
from muster.node.preflight.facts import Facts
from muster.node.preflight.probe import FindPorts, ListPackages, OpenPorts, TryEndpoints
from muster.node.ranks.commands import LineOutput
from muster.node.rpc import CommandFailed, Commands, Request

A = TypeVar("A")
STOP_SLACK = 20.0  # seconds beyond the grace in which a node must have ended its ranks

# what a node could not do, in words
_PURPOSES: dict[type[Request[Any]], str] = {
    InspectNode: "look at itself",
    ListPackages: "list its packages",
    OpenPorts: "open ports for the others to try",
    TryEndpoints: "try the other nodes",
    Restore: "put its checkpoints in place",
    FindPorts: "find free ports",
    StartRanks: "start its ranks",
    StartSpawner: "start what starts its ranks",
    StopRanks: "end its ranks",
    StoreFiles: "store its files",
    StoreUnderNames: "store its files",
}


class NodeFailed(CommandFailed):
    """A node that is needed could not do what it was asked; carries the verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.summary())
        self.verdict = verdict


class Member(Protocol):
    """A node that can be asked; ``lost`` is done, with the reason, once it is gone."""

    lost: asyncio.Future[str]

    async def ask(self, request: Request[A]) -> A:
        """Return the node's answer.

        :raises PeerLost: the node is gone.
        :raises CommandFailed: the node could not do it.
        """
        ...


class LocalMember:
    """The leader's own node as a member."""

    def __init__(self, executor: NodeExecutor) -> None:
        self._commands = Commands(executor.handlers)
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ask(self, request: Request[A]) -> A:
        """Return the answer of this node's executor.

        :raises CommandFailed: the executor could not do it.
        """
        return request.decode_reply(await self._commands.answer_async(request.encode()))


class FixedMembership:
    """Every node is needed, from first to last: the first loss ends the run."""

    restarts_gang = True  # once, if a rank lost the race for a port
    lost_any = False

    def __init__(self, plan: JobPlan) -> None:
        self._plan = plan
        self.exits = ExitTracker(plan)
        self.gang: Gang

    def admits(self) -> bool:
        """Return whether a node that is not there may join now."""
        return True

    def joined(self, node: int) -> None:
        """Continue with a node that has joined."""

    def lost(self, node: int, why: str) -> None:
        """Continue without a node, if the run can."""

    def can_lose(self, node: int) -> bool:
        """Return whether the run may continue without a node."""
        return False

    def survives(self) -> bool:
        """Return whether the run continues without the nodes that have been lost up to now."""
        return False

    def suffice(self, nodes: Collection[int]) -> bool:
        """Return whether these nodes are enough for a result."""
        return len(nodes) >= len(self._plan.nodes)

    def losses(self) -> list[asyncio.Future[Any]]:
        """Return what becomes done when a node is lost without which the run can't continue."""
        return [member.lost for member in self.gang.members.values()]

    def lost_verdict(self) -> Verdict | None:
        """Return the verdict on the first node found lost; None while all are there that the run needs."""
        for node, member in sorted(self.gang.members.items()):
            if member.lost.done():
                host = self.gang.host(node)
                detail = f"node {node} ({host}) was lost: {member.lost.result()}; all ranks were ended"
                return Verdict(cause=Cause.NODE, node=node, host=host, detail=detail)
        return None

    async def start(self, choice: network.Choice) -> None:
        """Start the ranks on all nodes, over a network."""
        shared = {"shared_host": self.gang.shared_host()}
        bindings = tuple({**known, **shared} for known in choice.local_bindings())
        asked = (self._ports_of(node, address) for node, address in enumerate(choice.addresses))
        ports = tuple(await asyncio.gather(*asked))
        await self.gang.ask_all(StartRanks(hosts=choice.addresses, ports=ports, local_bindings=bindings))
        if self._plan.spawner is not None:
            await self.gang.ask(0, StartSpawner())

    async def _ports_of(self, node: int, address: str) -> dict[str, int]:
        """Return a node's ports, found free on the address that it trains over."""
        known = self.gang.facts[node]
        if address == known.address or not known.ports:
            return known.ports
        ports = await self.gang.ask(node, FindPorts(address=address))
        self.gang.facts[node] = dataclasses.replace(known, ports=ports)
        return ports

    def ranks_ended(self) -> None:
        """Restart nothing any more: the ranks have ended."""

    def run_ended(self) -> None:
        """Record no loss any more: the nodes leave."""


class Gang:
    """Members and facts by node; ``membership`` decides which of them the run needs."""

    def __init__(
        self, plan: JobPlan, executor: NodeExecutor, halt: asyncio.Future[Verdict], membership: FixedMembership
    ) -> None:
        self._halt = halt
        self._plan = plan
        self._executor = executor
        self._changed = asyncio.Event()
        self._clock_offsets: dict[int, float] = {}
        self.members: dict[int, Member] = {0: LocalMember(executor)}
        self.facts: dict[int, Facts] = {}
        self.metrics: dict[str, float] = {}
        self.membership = membership
        self.exits = membership.exits
        membership.gang = self
        executor.push = self._on_local_push
        executor.ask = self.ask
        self._pushes = {
            Halt: lambda halt: self._on_halt(halt.verdict),
            ReportExit: lambda report: self.exits.add(report.exit),
            LineOutput: executor.forward_output,
        }

    def _on_local_push(self, request: Request[None]) -> None:
        self._pushes[type(request)](request)

    # -- joining

    async def on_peer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of another agent, until it is gone."""
        peer: mesh.Peer = mesh.Peer(reader, writer, Commands({Join: lambda join: self._join(peer, join), **self._pushes}))
        await peer.serve()

    def _join(self, peer: mesh.Peer, join: Join) -> bool:
        node = join.node
        if (node in self.members and not self.members[node].lost.done()) or not self.membership.admits():
            return False
        self.members[node] = peer
        peer.lost.add_done_callback(lambda lost: self._on_lost(node, peer, lost.result()))
        self._clock_offsets[node] = join.clock - time.time()
        self.facts[node] = join.facts
        self._changed.set()
        self.membership.joined(node)
        return True

    def _on_lost(self, node: int, peer: mesh.Peer, why: str) -> None:
        if self.members[node] is peer:
            self.membership.lost(node, why)

    def dismiss(self, node: int, why: str) -> None:
        """Disconnect a node; it counts as lost."""
        member = self.members[node]
        if isinstance(member, mesh.Peer):
            member.disconnect(why)

    async def gather(self, deadline: float) -> None:
        """Wait until every node is there; ``deadline`` in seconds since the epoch.

        :raises TimeoutError: some are missing; the message names them.
        """
        self.facts[0] = await self.ask(0, InspectNode())
        while missing := self.missing():
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), timeout=max(deadline - time.time(), 0.1))
            except asyncio.TimeoutError:
                raise TimeoutError(f"nodes {missing} did not report in time") from None

    def missing(self) -> list[int]:
        """Return the nodes that have not reported."""
        return [node.node for node in self._plan.nodes if node.node not in self.facts]

    def present(self) -> list[int]:
        """Return the nodes that are there."""
        return sorted(node for node, member in self.members.items() if not member.lost.done())

    def clocks(self) -> dict[int, float]:
        """Return how many seconds each node's clock was ahead of ours when it reported."""
        return {0: 0.0, **self._clock_offsets}

    def host(self, node: int) -> str:
        """Return a node's host name, "" if the node has not reported."""
        return self.facts[node].host if node in self.facts else ""

    def shared_host(self) -> str:
        """Return "yes" if several nodes are one machine, else ""."""
        hosts = [facts.host for facts in self.facts.values()]
        return "yes" if len(set(hosts)) < len(hosts) else ""

    # -- asking

    async def ask_all(self, request: Request[A]) -> dict[int, A]:
        """Ask every node that is there, all at once; return the answers of those that stayed.

        :raises NodeFailed: a node could not do it, and the run can't continue without it.
        """
        answers: dict[int, A] = {}
        for node, answer in (await self._outcomes(request)).items():
            if isinstance(answer, BaseException):
                raise answer
            answers[node] = answer
        return answers

    async def _outcomes(self, request: Request[A]) -> dict[int, A | BaseException]:
        """Ask every node that is there; return the answers of those that stayed, or what they raised."""
        present = self.present()
        answers = await asyncio.gather(*(self.ask(node, request) for node in present), return_exceptions=True)
        return {n: answer for n, answer in zip(present, answers, strict=True) if not isinstance(answer, PeerLost)}

    async def ask(self, node: int, request: Request[A]) -> A:
        """Ask one node.

        :raises PeerLost: the node is gone; so is one that could not do it, where the run continues without it.
        :raises NodeFailed: the node could not do it.
        """
        try:
            return await self.members[node].ask(request)
        except CommandFailed as error:
            why = f"could not {_PURPOSES.get(type(request), f'do what it was asked ({request.command})')}: {error}"
            if self.membership.can_lose(node):
                self.dismiss(node, f"it {why}")
                raise PeerLost(why) from None
            detail = f"node {node} ({self.host(node)}) {why}"
            raise NodeFailed(Verdict(cause=Cause.NODE, node=node, host=self.host(node), detail=detail)) from None

    def push(self, request: Request[None]) -> None:
        """Send all others a request that wants no reply."""
        for member in self.members.values():
            if isinstance(member, mesh.Peer):
                member.push(request)

    async def close(self) -> None:
        """Send what is buffered, and close all connections."""
        await asyncio.gather(*(m.close() for m in self.members.values() if isinstance(m, mesh.Peer)))

    async def stop(self) -> None:
        """End every rank of every node, within the grace and a slack; what the nodes then report is final."""
        with contextlib.suppress(asyncio.TimeoutError):
            answers = await asyncio.wait_for(self._outcomes(StopRanks()), timeout=self._plan.limits.grace + STOP_SLACK)
            for node in sorted(answers, reverse=True):
                stopped = answers[node]
                if isinstance(stopped, BaseException):
                    self._executor.log.add(event.NOTE, level="error", text=str(stopped))
                    continue
                self.metrics.update(stopped.metrics)
                for end in stopped.exits:
                    self.exits.record(end)

    # -- deciding

    def _on_halt(self, verdict: Verdict) -> None:
        """End the run as a node requests; a node that has to leave is only lost where the run can continue without it."""
        if verdict.cause is Cause.NODE and verdict.node is not None and self.membership.can_lose(verdict.node):
            self.dismiss(verdict.node, verdict.detail)
        elif not self._halt.done():
            self._halt.set_result(verdict)

    def first_failure(self) -> Verdict | None:
        """Return the verdict on what failed first; the others are its victims."""
        return self.exits.verdict(self._clock_offsets, {node: facts.host for node, facts in self.facts.items()})

    def lost_port_race(self) -> tuple[int, int] | None:
        """Return rank and node of the first failure if its port was taken and the gang may start again, else None."""
        first = self.exits.first_failed(self._clock_offsets)
        again = first is not None and first.port_taken and self.membership.restarts_gang
        return (first.rank, first.node) if first is not None and again else None
