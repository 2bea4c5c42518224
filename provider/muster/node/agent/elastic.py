"""Elastic membership of the gang: ranks run in rounds, restarted whenever a node is lost or comes back."""

from __future__ import annotations

import asyncio
import time

from muster.core import event
from muster.core.codec import from_data
from muster.core.verdict import Cause, Verdict
from muster.node.agent.elastic_exits import ElasticExitTracker
from muster.node.agent.executor import NodeExecutor
from muster.node.agent.gang import Gang, NodeFailed
from muster.node.agent.run_record import RunRecord
from muster.node.assignment import Assignment
from muster.node.mesh import PeerLost, told
from muster.node.preflight import network, rules
from muster.node.preflight.facts import Facts

STOP_SLACK = 20.0  # seconds beyond the grace in which a node must have ended its ranks


class ElasticMembership:
    """Goes on with the nodes that are there; ``broken`` is set, to the verdict, once there are fewer than the run needs, or
    they can't be started anew.

    Until ``begin`` every loss ends the run, as in any other; after ``close`` no round begins and no node is taken back.
    """

    def __init__(
        self, assignment: Assignment, work: NodeExecutor, gang: Gang, ends: ElasticExitTracker, record: RunRecord
    ) -> None:
        self._a = assignment
        self._work = work
        self._gang = gang
        self._ends = ends
        self._record = record
        self._network: network.Choice | None = None
        self._round = 0
        self._open = False
        self._over = False
        self._due = False
        self._task: asyncio.Task[None] | None = None
        self._missing: dict[int, str] = {}  # why, by node, those lost first at the front
        self.ever = False  # whether any node was ever lost
        self.broken: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        record.data["lost"] = []

    @property
    def begun(self) -> bool:
        """Whether losses are survived by now."""
        return self._network is not None

    def admits(self) -> bool:
        """Whether a node that was lost may come back now."""
        return self._open

    async def begin(self, choice: network.Choice) -> None:
        """Start the ranks on all nodes, and survive losses from now on."""
        await self._start(choice)
        self._network, self._open = choice, True

    def close(self) -> None:
        """Begin no round any more: the ranks have ended."""
        self._open = False
        if self._task is not None:
            self._task.cancel()

    def conclude(self) -> None:
        """Note nothing any more: all is said, and the nodes leave."""
        self._over = True

    # -- who leaves

    def lost(self, node: int, why: str) -> None:
        """Go on without a node, if enough are left."""
        if self._over or not self.begun:
            return
        was_needed = self._ends.takes_part(node)
        self._missing[node] = why
        self.ever = True
        self._tell_lost(node, why)
        if len(self._gang.present()) < self._a.plan.min_nodes:
            self._break(self._verdict())
        elif was_needed:
            self._begin_anew()
        else:
            self._ends.forget(node)

    def _break(self, verdict: Verdict) -> None:
        self._open = self._due = False
        if not self.broken.done():
            self.broken.set_result(verdict)

    def _tell_lost(self, node: int, why: str) -> None:
        host = self._gang.host(node)
        text = f"node {node} ({host}) was lost: {why}; {self._how_many()}"
        self._record.data["lost"].append({"node": node, "host": host, "at": time.time(), "why": why, "back": None})
        times = sum(entry["node"] == node for entry in self._record.data["lost"])
        self._work.log.add(event.NOTE, level="warning", text=text, lost=node, times=times)

    def _verdict(self) -> Verdict:
        """Name the node that was lost first, of those that are missing."""
        first, *others = self._missing
        host = self._gang.host(first)
        more = "".join(f", then node {node} ({self._gang.host(node)}): {self._missing[node]}" for node in others)
        detail = f"node {first} ({host}) was lost: {self._missing[first]}{more}; {self._how_many()}; all ranks were ended"
        return Verdict(cause=Cause.NODE, node=first, host=host, detail=detail)

    def _how_many(self) -> str:
        left = len(self._gang.present())
        are = "is" if left == 1 else "are"
        return f"{left} of {len(self._a.plan.nodes)} nodes {are} left, the run needs {self._a.plan.min_nodes}"

    # -- who comes back

    def back(self, node: int) -> None:
        """Take a node in that has come back, if it fits."""
        try:
            self._network = self._with(node)
        except _Unfit as error:
            return self._gang.dismiss(node, str(error))
        self._missing.pop(node, None)
        text = f"node {node} ({self._gang.host(node)}) is back; all ranks start anew, from the newest checkpoint"
        self._work.log.add(event.NOTE, level="warning", text=text, back=node)
        for entry in self._record.data["lost"]:
            if entry["node"] == node:
                entry["back"] = entry["back"] or time.time()
        self._begin_anew()

    def _with(self, node: int) -> network.Choice:
        """Give the network of all with a node that has come back.

        :raises _Unfit: it does not fit, or is not on the network that the others train over.
        """
        assert self._network is not None
        facts = {number: from_data(Facts, data) for number, data in sorted(self._gang.facts.items())}
        violations = rules.violations(self._a.plan, [facts[node]])
        if violations:
            raise _Unfit(violations[0].reason)
        try:
            choice = network.choose(self._a.plan.network_interface, list(facts.values()))
        except network.NoNetwork as error:
            raise _Unfit(str(error)) from None
        others = [number for number in self._gang.present() if number != node]
        if any(choice.addresses[number] != self._network.addresses[number] for number in others):
            raise _Unfit(f"it is not on the network of the others, {', '.join(self._network.networks)}")
        return choice

    # -- rounds

    def _begin_anew(self) -> None:
        """Begin a round once the one before has been started; several wishes at a time are one."""
        self._due = True
        if self._open and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._begin_rounds())

    async def _begin_rounds(self) -> None:
        while self._due and self._network is not None:
            self._due = False
            try:
                await self._anew(self._network)
                await self._work.syncer.tell("record", record=self._record.data)
            except PeerLost:
                continue  # told of where the loss is noticed, which wishes the next round
            except NodeFailed as error:
                self._break(error.verdict)
            except Exception as error:  # no end counts until the ranks are started, so nothing else would end the run
                self._break(self._not_anew(error))

    def _not_anew(self, error: Exception) -> Verdict:
        host = self._gang.host(0)
        detail = f"node 0 ({host}) could not have the ranks started anew: {told(error)}; all ranks were ended"
        return Verdict(cause=Cause.NODE, node=0, host=host, detail=detail)

    async def _anew(self, choice: network.Choice) -> None:
        """End all ranks, and start them on the nodes that are there, from the newest checkpoints that any has committed."""
        self._ends.pause()
        await self._gang.stop(within=self._a.plan.limits.grace + STOP_SLACK)
        run = {"run": self._a.job_id, "generation": self._a.generation}
        for node, answer in (await self._gang.ask_all("restore", **run, newest=True)).items():
            if not answer["ok"]:
                text = f"node {node} goes on from the checkpoints that it has itself: {answer['error']}"
                self._work.log.add(event.NOTE, level="warning", text=text)
        await self._start(choice)

    async def _start(self, choice: network.Choice) -> None:
        self._round += 1
        nodes = self._gang.present()
        known = {"nodes": str(len(nodes)), "round": str(self._round), "shared_host": self._gang.shared_host()}
        here = [{**own, **known} for own in choice.here()]
        port = await self._gang.ask(0, "ports", address=choice.addresses[0])
        ports = [port, *({} for _ in self._a.plan.nodes[1:])]
        self._ends.begin(nodes)
        fields = {"hosts": choice.addresses, "ports": ports, "here": here}
        secrets = dict(self._work.secrets) if self._round > 1 else {}  # a node that is back has them no more
        await self._gang.ask_all("start", **fields, secrets=secrets)
        await self._gang.ask_all("spawner")


class _Unfit(Exception):
    """A node can't come back; says why."""
