"""Elastic membership of the gang: ranks run in rounds, restarted whenever a node is lost or comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Any

from muster.core import event
from muster.core.verdict import Cause, Verdict
from muster.node.agent.commands import Restore, StartRanks, StartSpawner
from muster.node.agent.elastic_exits import ElasticExitTracker
from muster.node.agent.executor import NodeExecutor
from muster.node.agent.gang import FixedMembership, NodeFailed
from muster.node.agent.run_record import RunRecord
from muster.node.assignment import Assignment
from muster.node.mesh import PeerLost
from muster.node.preflight import network, rules
from muster.node.preflight.probe import FindPorts
from muster.node.rpc import one_line
from muster.node.sync_commands import PutRecord


class ElasticMembership(FixedMembership):
    """The run continues with the nodes that are there, as long as the plan's ``min_nodes`` are, node 0 among them.

    Until ``start`` every loss ends the run, as with a fixed membership; after ``ranks_ended`` no round starts and no node may
    come back. ``broken`` is set to the verdict once there are too few nodes, or the ranks can't be restarted.
    """

    restarts_gang = False

    def __init__(self, assignment: Assignment, executor: NodeExecutor, record: RunRecord) -> None:
        super().__init__(assignment.plan)
        self.exits: ElasticExitTracker = ElasticExitTracker(assignment.plan)
        self._a = assignment
        self._executor = executor
        self._record = record
        self._network: network.Choice | None = None
        self._round = 0
        self._open = False
        self._over = False
        self._due = False
        self._task: asyncio.Task[None] | None = None
        self._missing: dict[int, str] = {}  # why, by node, those lost first at the front
        self.broken: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        record.data["lost"] = []

    @property
    def _started(self) -> bool:
        return self._network is not None

    def admits(self) -> bool:
        """Return whether a node that was lost may come back now."""
        return self._open or not self._started

    def can_lose(self, node: int) -> bool:
        """Return whether the run may continue without a node; never without the leader's own."""
        return node != 0 and self._started

    def survives(self) -> bool:
        """Return whether the run continues without the nodes that have been lost up to now."""
        return self._started and not self.broken.done()

    def suffice(self, nodes: Collection[int]) -> bool:
        """Return whether these nodes are enough for a result."""
        return len(nodes) >= self._a.plan.min_nodes

    def losses(self) -> list[asyncio.Future[Any]]:
        """Return what becomes done when the run can't continue."""
        return [self.gang.members[0].lost, self.broken] if self._started else super().losses()

    def lost_verdict(self) -> Verdict | None:
        """Return the verdict on the losses that the run did not survive."""
        if not self._started:
            return super().lost_verdict()
        return self.broken.result() if self.broken.done() else None

    async def start(self, choice: network.Choice) -> None:
        """Start the ranks on all nodes; losses are survived from now on."""
        await self._start_round(choice)
        self._network, self._open = choice, True

    def ranks_ended(self) -> None:
        """Start no round any more: the ranks have ended."""
        self._open = False
        if self._task is not None:
            self._task.cancel()

    def run_ended(self) -> None:
        """Record no loss any more: the nodes leave."""
        self._over = True

    # -- nodes that leave

    def lost(self, node: int, why: str) -> None:
        """Continue without a node, if enough are left."""
        if self._over or not self._started:
            return
        was_needed = self.exits.takes_part(node)
        self._missing[node] = why
        self.lost_any = True
        self._record_loss(node, why)
        if len(self.gang.present()) < self._a.plan.min_nodes:
            self._break(self._verdict())
        elif was_needed:
            self._restart()
        else:
            self.exits.remove(node)

    def _break(self, verdict: Verdict) -> None:
        self._open = self._due = False
        if not self.broken.done():
            self.broken.set_result(verdict)

    def _record_loss(self, node: int, why: str) -> None:
        host = self.gang.host(node)
        text = f"node {node} ({host}) was lost: {why}; {self._how_many()}"
        self._record.data["lost"].append({"node": node, "host": host, "at": time.time(), "why": why, "back": None})
        times = sum(entry["node"] == node for entry in self._record.data["lost"])
        self._executor.log.add(event.NOTE, level="warning", text=text, lost=node, times=times)

    def _verdict(self) -> Verdict:
        """Name the node that was lost first, of those that are missing."""
        first, *others = self._missing
        host = self.gang.host(first)
        more = "".join(f", then node {node} ({self.gang.host(node)}): {self._missing[node]}" for node in others)
        detail = f"node {first} ({host}) was lost: {self._missing[first]}{more}; {self._how_many()}; all ranks were ended"
        return Verdict(cause=Cause.NODE, node=first, host=host, detail=detail)

    def _how_many(self) -> str:
        left = len(self.gang.present())
        are = "is" if left == 1 else "are"
        return f"{left} of {len(self._a.plan.nodes)} nodes {are} left, the run needs {self._a.plan.min_nodes}"

    # -- nodes that come back

    def joined(self, node: int) -> None:
        """Continue with a node that has come back, if it fits."""
        if not self._started:
            return
        try:
            self._network = self._network_with(node)
        except _DoesNotFit as error:
            return self.gang.dismiss(node, str(error))
        self._missing.pop(node, None)
        text = f"node {node} ({self.gang.host(node)}) is back; all ranks start anew, from the newest checkpoint"
        self._executor.log.add(event.NOTE, level="warning", text=text, back=node)
        for entry in self._record.data["lost"]:
            if entry["node"] == node:
                entry["back"] = entry["back"] or time.time()
        self._restart()

    def _network_with(self, node: int) -> network.Choice:
        """Return the network of all nodes, with one that has come back.

        :raises _DoesNotFit: the node does not fit, or is not on the network that the others train over.
        """
        assert self._network is not None
        facts = dict(sorted(self.gang.facts.items()))
        violations = rules.violations(self._a.plan, [facts[node]])
        if violations:
            raise _DoesNotFit(violations[0].reason)
        try:
            choice = network.choose(self._a.plan.network_interface, list(facts.values()))
        except network.NoNetwork as error:
            raise _DoesNotFit(str(error)) from None
        others = [number for number in self.gang.present() if number != node]
        if any(choice.addresses[number] != self._network.addresses[number] for number in others):
            raise _DoesNotFit(f"it is not on the network of the others, {', '.join(self._network.networks)}")
        return choice

    # -- rounds

    def _restart(self) -> None:
        """Start a round once the one before has been started; several requests at a time are one."""
        self._due = True
        if self._open and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._restart_while_due())

    async def _restart_while_due(self) -> None:
        while self._due and self._network is not None:
            self._due = False
            try:
                await self._stop_and_start(self._network)
                await self._executor.syncer.notify(PutRecord(record=self._record.data))
            except PeerLost:
                continue  # recorded where the loss is noticed, which requests the next round
            except NodeFailed as error:
                self._break(error.verdict)
            except Exception as error:  # no exit counts until the ranks are started, so nothing else would end the run
                self._break(self._restart_failed(error))

    def _restart_failed(self, error: Exception) -> Verdict:
        host = self.gang.host(0)
        detail = f"node 0 ({host}) could not restart the ranks: {one_line(error)}; all ranks were ended"
        return Verdict(cause=Cause.NODE, node=0, host=host, detail=detail)

    async def _stop_and_start(self, choice: network.Choice) -> None:
        """End all ranks, and start them on the nodes that are there, from the newest checkpoints that any has committed."""
        self.exits.end_round()
        await self.gang.stop()
        request = Restore(run=self._a.job_id, generation=self._a.generation, newest=True)
        for node, restored in (await self.gang.ask_all(request)).items():
            if restored.error:
                text = f"node {node} continues from its own checkpoints: {restored.error}"
                self._executor.log.add(event.NOTE, level="warning", text=text)
        await self._start_round(choice)

    async def _start_round(self, choice: network.Choice) -> None:
        self._round += 1
        nodes = self.gang.present()
        shared = {"nodes": str(len(nodes)), "round": str(self._round), "shared_host": self.gang.shared_host()}
        ports = await self.gang.ask(0, FindPorts(address=choice.addresses[0]))
        self.exits.start_round(nodes)
        request = StartRanks(
            hosts=choice.addresses,
            ports=(ports, *({} for _ in self._a.plan.nodes[1:])),
            local_bindings=tuple({**known, **shared} for known in choice.local_bindings()),
            secrets=dict(self._executor.secrets) if self._round > 1 else {},  # a node that is back has lost them
        )
        await self.gang.ask_all(request)
        await self.gang.ask_all(StartSpawner())


class _DoesNotFit(Exception):
    """Raised for a node that can't rejoin; the message is the reason."""
