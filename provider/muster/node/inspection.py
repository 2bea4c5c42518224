"""Inspection: the leader's part of preflight: gathers the nodes, compares them, chooses their network, tries every pair."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from muster.core import event
from muster.core.codec import from_data
from muster.core.verdict import Misfit, Verdict, unfit
from muster.node import bell, contents, network, preflight
from muster.node.assignment import Assignment
from muster.node.bell import Rung
from muster.node.eventlog import EventLog
from muster.node.facts import Facts
from muster.node.gang import Gang
from muster.node.reach import Blocked, Door

RING_AFTER = 5.0  # seconds after which nodes that have not come are asked why
RING_EVERY = 2.0
SILENT_RINGS = 3  # so often no packet came through, before a node counts as not to be reached


class Refused(Exception):
    """The nodes don't fit; carries the verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.summary())
        self.verdict = verdict


class Inspection:
    """One preflight of all nodes; ``certificate`` is the job's, for asking nodes that have not come."""

    def __init__(self, assignment: Assignment, gang: Gang, log: EventLog, certificate: Path) -> None:
        self._a = assignment
        self._gang = gang
        self._log = log
        self._certificate = certificate

    async def run(self) -> network.Choice | None:
        """Inspect all nodes; gives the network that they train over, None where none will train.

        :raises Refused: one at least doesn't fit.
        """
        await self._gather()
        if self._a.commit_only:
            return None
        facts = self._facts()
        await self._compare(facts)
        choice = self._choose(facts)
        await self._try_pairs(choice, facts)
        return choice

    def _facts(self) -> list[Facts]:
        return [from_data(Facts, self._gang.facts[node]) for node in sorted(self._gang.facts)]

    # -- who is there

    async def _gather(self) -> None:
        within = self._a.mesh_patience()
        gathering = asyncio.ensure_future(self._gang.gather(time.time() + within))
        ringing = asyncio.ensure_future(self._ring())
        try:
            await asyncio.wait([gathering, ringing], return_when=asyncio.FIRST_COMPLETED)
            if ringing.done():
                ringing.result()
            await gathering
        except TimeoutError:
            raise Refused(unfit([self._missing(node, within) for node in self._gang.missing()])) from None
        finally:
            for task in (gathering, ringing):
                task.cancel()

    def _missing(self, node: int, within: float) -> Misfit:
        where = self._a.addresses[node]
        leader = self._a.addresses[0] or "its address"
        reason = f"it did not report within {within:.0f} s; look whether it is up{f' at {where}' if where else ''}, and reaches"
        return Misfit(node=node, host="", reason=f"{reason} node 0 at {leader}")

    async def _ring(self) -> None:
        """Ask nodes that have not come why not.

        :raises Refused: one of them can't come.
        """
        silent: dict[int, int] = {}
        await asyncio.sleep(RING_AFTER)
        while True:
            missing = [node for node in self._gang.missing() if self._a.addresses[node] not in ("", self._a.addresses[0])]
            rungs = await asyncio.gather(*(self._ring_at(node) for node in missing))
            found = [self._cut_off(node, rung, silent) for node, rung in zip(missing, rungs, strict=True)]
            misfits = [misfit for misfit in found if misfit is not None and misfit.node in self._gang.missing()]
            if misfits:
                await asyncio.gather(*(self._ring_at(misfit.node, bell.OVER) for misfit in misfits))
                raise Refused(unfit(misfits))
            await asyncio.sleep(RING_EVERY)

    def _ring_at(self, node: int, word: str = bell.WHY) -> asyncio.Future[Rung]:
        return asyncio.ensure_future(bell.ring(self._a, node, self._certificate, word))

    def _cut_off(self, node: int, rung: Rung, silent: dict[int, int]) -> Misfit | None:
        silent[node] = silent.get(node, 0) + 1 if rung.silent else 0
        if rung.problem:
            reason = f"it can't reach node 0 at {rung.problem}; open the firewall of node 0 for the nodes of a job"
        elif silent[node] >= SILENT_RINGS:
            reason = f"node 0 can't reach it at {self._a.addresses[node]}: {rung.silent}; look at its network and firewall"
        else:
            return None
        return Misfit(node=node, host="", reason=reason)

    # -- whether they fit

    async def _compare(self, facts: list[Facts]) -> None:
        clocks, submitter = self._gang.clocks(), self._a.submitted - time.time()
        misfits = preflight.misfits(self._a.plan, facts, clocks, submitter) or await self._other_packages(facts)
        if misfits:
            raise Refused(unfit(misfits))
        for note in preflight.notes(clocks, submitter, facts):
            self._log.add(event.NOTE, level="warning", text=note)

    async def _other_packages(self, facts: list[Facts]) -> tuple[Misfit, ...]:
        odd = preflight.other_packages(self._a.plan, facts)
        if not odd:
            return ()
        lists = await self._gang.ask_all("packages")
        remedy = "make the nodes' environments the same, or empty Muster's environments there"
        reasons = {
            node: f"its environment is not that of the others: {contents.difference(lists[node], lists[usual])}; {remedy}"
            for node, usual in odd
            if node in lists and usual in lists
        }
        return preflight.misfits_of(reasons, facts)

    # -- whether they reach each other

    def _choose(self, facts: list[Facts]) -> network.Choice:
        try:
            choice = network.choose(self._a.plan.network_interface, facts)
        except network.NoNetwork as error:
            raise Refused(unfit(preflight.misfits_of({error.node: str(error)}, facts))) from None
        if choice.note:
            self._log.add(event.NOTE, level="info", text=choice.note)
        return choice

    async def _try_pairs(self, choice: network.Choice, facts: list[Facts]) -> None:
        """Have every node try all others: two messages to each node, however many pairs there are.

        Ports that the plan wishes are tried; where not every node has one, also one more of each, as the framework then takes
        any. Over loopback there is nothing to try.
        """
        if len(facts) == 1 or all(address.startswith(network.LOOPBACK_RANGE) for address in choice.addresses):
            return
        spare = not all(node.ports for node in self._a.plan.nodes)
        asked = (self._gang.ask(n, "open_doors", address=address, spare=spare) for n, address in enumerate(choice.addresses))
        opened = await asyncio.gather(*asked)
        doors = [Door(node=n, address=choice.addresses[n], ports=tuple(ports)) for n, ports in enumerate(opened)]
        answers = await self._gang.ask_all("try_doors", doors=[[door.node, door.address, door.ports] for door in doors])
        pairs = [from_data(Blocked, pair) for answer in answers.values() for pair in answer]
        if pairs:
            raise Refused(unfit(preflight.culprits(pairs, facts)))
