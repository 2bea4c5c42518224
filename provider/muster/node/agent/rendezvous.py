"""Rendezvous: the leader's part of preflight: gathers the nodes, asks those that don't come why, and has all compared."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from muster.core import event
from muster.core.verdict import Violation, unfit
from muster.node import reverse_probe
from muster.node.agent.gang import Gang
from muster.node.assignment import Assignment
from muster.node.event_log import EventLog
from muster.node.preflight import network
from muster.node.preflight.preflight import Preflight, PreflightFailed
from muster.node.reverse_probe import ProbeResult

RING_AFTER = 5.0  # seconds after which nodes that have not come are asked why
RING_EVERY = 2.0
SILENT_RINGS = 3  # so often no packet came through, before a node counts as not to be reached


class Rendezvous:
    """One preflight of all nodes; ``certificate`` is the job's, for asking nodes that have not come."""

    def __init__(self, assignment: Assignment, gang: Gang, log: EventLog, certificate: Path) -> None:
        self._a = assignment
        self._gang = gang
        self._log = log
        self._certificate = certificate

    async def run(self) -> network.Choice | None:
        """Inspect all nodes; gives the network that they train over, None where none will train.

        :raises PreflightFailed: one at least doesn't fit.
        """
        await self._gather()
        if self._a.commit_only:
            return None
        submitter = self._a.submitted - time.time()
        return await Preflight(plan=self._a.plan, nodes=self._gang, submitter=submitter, tell=self._note).run()

    def _note(self, level: str, text: str) -> None:
        self._log.add(event.NOTE, level=level, text=text)

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
            raise PreflightFailed(unfit([self._missing(node, within) for node in self._gang.missing()])) from None
        finally:
            for task in (gathering, ringing):
                task.cancel()

    def _missing(self, node: int, within: float) -> Violation:
        where = self._a.addresses[node]
        leader = self._a.addresses[0] or "its address"
        reason = f"it did not report within {within:.0f} s; look whether it is up{f' at {where}' if where else ''}, and reaches"
        return Violation(node=node, host="", reason=f"{reason} node 0 at {leader}")

    async def _ring(self) -> None:
        """Ask nodes that have not come why not.

        :raises PreflightFailed: one of them can't come.
        """
        silent: dict[int, int] = {}
        await asyncio.sleep(RING_AFTER)
        while True:
            missing = [node for node in self._gang.missing() if self._a.addresses[node] not in ("", self._a.addresses[0])]
            results = await asyncio.gather(*(self._probe_back(node) for node in missing))
            found = [self._cut_off(node, result, silent) for node, result in zip(missing, results, strict=True)]
            violations = [violation for violation in found if violation is not None and violation.node in self._gang.missing()]
            if violations:
                await asyncio.gather(*(self._probe_back(violation.node, reverse_probe.OVER) for violation in violations))
                raise PreflightFailed(unfit(violations))
            await asyncio.sleep(RING_EVERY)

    def _probe_back(self, node: int, word: str = reverse_probe.WHY) -> asyncio.Future[ProbeResult]:
        return asyncio.ensure_future(reverse_probe.probe_back(self._a, node, self._certificate, word))

    def _cut_off(self, node: int, result: ProbeResult, silent: dict[int, int]) -> Violation | None:
        silent[node] = silent.get(node, 0) + 1 if result.silent else 0
        if result.problem:
            reason = f"it can't reach node 0 at {result.problem}; open the firewall of node 0 for the nodes of a job"
        elif silent[node] >= SILENT_RINGS:
            reason = f"node 0 can't reach it at {self._a.addresses[node]}: {result.silent}; look at its network and firewall"
        else:
            return None
        return Violation(node=node, host="", reason=reason)
