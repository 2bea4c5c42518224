"""Preflight: checks that nodes fit the job and each other; run by the leader on agents, or by a launch on hosts without any."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from muster.core.plan import JobPlan
from muster.core.verdict import Verdict, Violation, unfit
from muster.node.preflight import content_digests, network, rules
from muster.node.preflight.facts import Facts
from muster.node.preflight.probe import ListPackages, OpenPorts, TryEndpoints
from muster.node.preflight.reachability import Endpoint
from muster.node.rpc import Request

A = TypeVar("A")


class Nodes(Protocol):
    """Nodes that can be asked, by their numbers."""

    facts: dict[int, Facts]

    def clocks(self) -> dict[int, float]:
        """Return how many seconds each node's clock is ahead of node 0's."""
        ...

    async def ask(self, node: int, request: Request[A]) -> A:
        """Return the answer of one node."""
        ...

    async def ask_all(self, request: Request[A]) -> dict[int, A]:
        """Return the answers of all nodes, asked at once."""
        ...


class PreflightFailed(Exception):
    """The nodes don't fit; carries the verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.summary())
        self.verdict = verdict


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """Compares nodes, chooses their network, tries every pair; ``note(level, text)`` reports what is odd but no violation.

    ``submitter``: seconds that the clock of the machine that submitted is ahead of node 0's. ``endpoints``: more of them to
    try, that are open already.
    """

    plan: JobPlan
    nodes: Nodes
    submitter: float
    note: Callable[[str, str], None]
    endpoints: tuple[Endpoint, ...] = ()

    async def run(self) -> network.Choice:
        """Return the network that the nodes train over.

        :raises PreflightFailed: one at least doesn't fit.
        """
        facts = [self.nodes.facts[node] for node in sorted(self.nodes.facts)]
        await self._compare(facts)
        choice = self._choose(facts)
        await self._try_pairs(choice, facts)
        return choice

    # -- whether they fit

    async def _compare(self, facts: list[Facts]) -> None:
        clocks = self.nodes.clocks()
        violations = rules.violations(self.plan, facts, clocks, self.submitter) or await self._other_packages(facts)
        if violations:
            raise PreflightFailed(unfit(violations))
        for note in rules.notes(clocks, self.submitter, facts):
            self.note("warning", note)

    async def _other_packages(self, facts: list[Facts]) -> tuple[Violation, ...]:
        odd = rules.other_packages(self.plan, facts)
        if not odd:
            return ()
        lists = await self.nodes.ask_all(ListPackages())
        remedy = "make the nodes' environments the same, or empty Muster's environments there"
        difference = content_digests.difference
        reasons = {
            node: f"its environment is not that of the others: {difference(lists[node], lists[usual])}; {remedy}"
            for node, usual in odd
            if node in lists and usual in lists
        }
        return rules.violations_of(reasons, facts)

    # -- whether they reach each other

    def _choose(self, facts: list[Facts]) -> network.Choice:
        try:
            choice = network.choose(self.plan.network_interface, facts)
        except network.NoNetwork as error:
            raise PreflightFailed(unfit(rules.violations_of({error.node: str(error)}, facts))) from None
        if choice.note:
            self.note("info", choice.note)
        return choice

    async def _try_pairs(self, choice: network.Choice, facts: list[Facts]) -> None:
        """Try every pair of nodes, by two requests to each node.

        The plan's ports are tried; where not every node has one, also one more of each, as the framework then takes any. Over
        loopback there is nothing to try.
        """
        if len(facts) == 1 or all(address.startswith(network.LOOPBACK_RANGE) for address in choice.addresses):
            return
        spare = not all(node.ports for node in self.plan.nodes)
        requests = [OpenPorts(address=address, spare=spare) for address in choice.addresses]
        opened = await asyncio.gather(*(self.nodes.ask(n, request) for n, request in enumerate(requests)))
        own = (Endpoint(node=n, address=choice.addresses[n], ports=ports) for n, ports in enumerate(opened))
        answers = await self.nodes.ask_all(TryEndpoints(endpoints=(*own, *self.endpoints)))
        pairs = [pair for answer in answers.values() for pair in answer]
        if pairs:
            raise PreflightFailed(unfit(rules.culprits(pairs, facts)))
