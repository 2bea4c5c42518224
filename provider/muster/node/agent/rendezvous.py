"""The rendezvous of a gang: gathers the nodes, probes back those that don't join, and runs the preflight on all."""

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

PROBE_AFTER = 5.0  # seconds after which nodes that have not joined are probed
PROBE_INTERVAL = 2.0
SILENT_PROBES = 3  # probes without any packet back after which a node counts as unreachable


class Rendezvous:
    """Gathers the nodes of one attempt; ``certificate`` is the job's, for nodes that have not joined."""

    def __init__(self, assignment: Assignment, gang: Gang, log: EventLog, certificate: Path) -> None:
        self._a = assignment
        self._gang = gang
        self._log = log
        self._certificate = certificate

    async def run(self) -> network.Choice | None:
        """Gather and check all nodes; return the network that they train over, None where none will train.

        :raises PreflightFailed: one at least doesn't fit.
        """
        await self._gather()
        if self._a.commit_only:
            return None
        submitter = self._a.submitted - time.time()
        return await Preflight(plan=self._a.plan, nodes=self._gang, submitter=submitter, note=self._log_note).run()

    def _log_note(self, level: str, text: str) -> None:
        self._log.add(event.NOTE, level=level, text=text)

    # -- who is there

    async def _gather(self) -> None:
        within = self._a.join_timeout()
        gathering = asyncio.ensure_future(self._gang.gather(time.time() + within))
        probing = asyncio.ensure_future(self._probe_missing())
        try:
            await asyncio.wait([gathering, probing], return_when=asyncio.FIRST_COMPLETED)
            if probing.done():
                probing.result()
            await gathering
        except TimeoutError:
            raise PreflightFailed(unfit([self._missing(node, within) for node in self._gang.missing()])) from None
        finally:
            for task in (gathering, probing):
                task.cancel()

    def _missing(self, node: int, within: float) -> Violation:
        address = self._a.addresses[node]
        leader = self._a.addresses[0] or "its address"
        reason = (
            f"it did not report within {within:.0f} s; look whether it is up{f' at {address}' if address else ''}, and reaches"
        )
        return Violation(node=node, host="", reason=f"{reason} node 0 at {leader}")

    async def _probe_missing(self) -> None:
        """Probe nodes that have not joined, to learn why.

        :raises PreflightFailed: one of them can't join.
        """
        silent: dict[int, int] = {}
        await asyncio.sleep(PROBE_AFTER)
        while True:
            missing = [node for node in self._gang.missing() if self._a.addresses[node] not in ("", self._a.addresses[0])]
            results = await asyncio.gather(*(self._probe_back(node) for node in missing))
            found = [self._violation_of(node, result, silent) for node, result in zip(missing, results, strict=True)]
            violations = [violation for violation in found if violation is not None and violation.node in self._gang.missing()]
            if violations:
                await asyncio.gather(*(self._probe_back(violation.node, over=True) for violation in violations))
                raise PreflightFailed(unfit(violations))
            await asyncio.sleep(PROBE_INTERVAL)

    def _probe_back(self, node: int, *, over: bool = False) -> asyncio.Future[ProbeResult]:
        return asyncio.ensure_future(reverse_probe.probe_back(self._a, node, self._certificate, over=over))

    def _violation_of(self, node: int, result: ProbeResult, silent: dict[int, int]) -> Violation | None:
        silent[node] = silent.get(node, 0) + 1 if result.silent else 0
        if result.problem:
            reason = f"it can't reach node 0 at {result.problem}; open the firewall of node 0 for the nodes of a job"
        elif silent[node] >= SILENT_PROBES:
            reason = f"node 0 can't reach it at {self._a.addresses[node]}: {result.silent}; look at its network and firewall"
        else:
            return None
        return Violation(node=node, host="", reason=reason)
