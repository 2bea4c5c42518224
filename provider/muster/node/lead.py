"""Leader: the agent of node 0 gathers the nodes, starts the gang and finds out how it ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from muster.core import event
from muster.core.codec import from_data
from muster.core.state import RunState
from muster.core.verdict import Cause, Verdict
from muster.node import mesh, network, preflight
from muster.node.assignment import Assignment
from muster.node.finalize import Finalizer
from muster.node.gang import Gang
from muster.node.mesh import PeerLost
from muster.node.record import RunRecord
from muster.node.work import NodeWork

STOP_SLACK = 20.0  # seconds beyond the grace in which a node must have ended its ranks


class Stopped(Exception):
    """The run is to end; carries the verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.summary())
        self.verdict = verdict


class Leader:
    """Runs one attempt, from the first node's arrival to the last word in the event log.

    ``halt`` is set, by a cancel, the deadline or a fence, to the verdict with which the run is to end.
    """

    def __init__(self, assignment: Assignment, work: NodeWork, halt: asyncio.Future[Verdict]) -> None:
        self._a = assignment
        self._work = work
        self._log = work.log
        self._halt = halt
        self._gang = Gang(assignment.plan, work, halt)
        self._record = RunRecord(assignment, work.paths.root.parent)
        self._network: network.Choice | None = None

    async def run(self) -> None:
        """Lead the attempt to its end."""
        self._work.syncer.start()
        self._log.add(event.STATE, state=RunState.STARTING.value)
        address = self._a.addresses[0] and await asyncio.to_thread(preflight.resolved, self._a.addresses[0])
        server = await mesh.listen(address, self._a.marker, self._work.paths.certificate, self._gang.on_peer)
        finalizer = Finalizer(self._a, self._work, self._gang, self._record)
        verdict = await self._train()
        await finalizer.run(verdict, self._halt)
        await self._gang.close()
        server.close()

    async def _train(self) -> Verdict | None:
        """Gather, check, start and wait; gives why the run did not complete, None if it did."""
        try:
            await self._or_halt(self._prepare())
            return None if self._a.commit_only else await self._run_gang()
        except Stopped as stopped:
            await self._stop()
            return stopped.verdict
        except PeerLost as lost:
            await self._stop()
            return self._gang.lost_verdict() or Verdict(cause=Cause.NODE, detail=str(lost))

    async def _or_halt(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something, unless a halt or the loss of a node comes first."""
        task = asyncio.ensure_future(work)
        await self._first_of(task)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise Stopped(self._halt.result() if self._halt.done() else self._gang.lost_verdict() or _NO_REASON)
        task.result()

    async def _first_of(self, task: asyncio.Future[Any]) -> None:
        """Wait for a task, a halt, or the loss of a node, whichever comes first."""
        awaited: list[asyncio.Future[Any]] = [task, self._halt, *self._gang.losses()]
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)

    # -- before the ranks

    async def _prepare(self) -> None:
        check = asyncio.ensure_future(self._check_store())
        try:
            await self._gather()
            await check
        finally:
            check.cancel()
        if not self._a.commit_only:
            await self._restore()

    async def _check_store(self) -> None:
        answer = await self._work.syncer.ask("check", snapshot=self._a.plan.snapshot, archive=self._a.archive or None)
        if not answer["ok"]:
            raise Stopped(Verdict(cause=Cause.REQUEST, detail=answer["error"]))
        await self._save()

    async def _gather(self) -> None:
        limit = self._a.plan.limits.mesh
        try:
            await self._gang.gather(self._a.submitted + limit)
        except TimeoutError as error:
            detail = f"{error} ({limit:g} s); look whether they can reach node 0 at {self._a.addresses[0]}; no rank was started"
            raise Stopped(Verdict(cause=Cause.PREFLIGHT, detail=detail)) from None
        nodes = [self._gang.facts[node] for node in sorted(self._gang.facts)]
        folders = [{"node": node["node"], "path": node["folder"]} for node in nodes]
        self._record.data.update(nodes=nodes, host_folders=folders)
        facts = [from_data(preflight.Facts, data) for data in self._gang.facts.values()]
        misfit = preflight.misfit(self._a.plan, facts)
        if misfit is not None:
            raise Stopped(misfit)
        for note in preflight.differences(facts, time.time()):
            self._log.add(event.NOTE, level="warning", text=note)
        self._choose_network(facts)

    def _choose_network(self, facts: list[preflight.Facts]) -> None:
        try:
            self._network = network.choose(self._a.plan.network_interface, facts)
        except network.NoNetwork as error:
            unfit = next(node for node in facts if node.node == error.node)
            raise Stopped(preflight.unfit(unfit, str(error))) from None
        self._record.data["networks"] = list(self._network.networks)
        if self._network.note:
            self._log.add(event.NOTE, level="info", text=self._network.note)

    async def _restore(self) -> None:
        run, generation = self._a.resumes
        if not run:
            return
        answers = await self._gang.ask_all("restore", run=run, generation=generation)
        failed = [answer["error"] for answer in answers.values() if not answer["ok"]]
        if failed:
            raise Stopped(Verdict(cause=Cause.NODE, detail=f"the checkpoints of {run} can't be put in place: {failed[0]}"))
        count = max(answer["files"] for answer in answers.values())
        if count:
            self._log.add(event.NOTE, level="info", text=f"resumed from the last committed checkpoint of {run} ({count} files)")

    # -- the ranks

    async def _run_gang(self) -> Verdict | None:
        """Start the gang and wait for its end; once more if a rank lost the race for a port."""
        await self._or_halt(self._start())
        verdict = await self._until_ended()
        first = self._gang.first_failed_end()
        if verdict is None or verdict.cause is not Cause.RANK or first is None or not first["port_taken"]:
            return verdict
        text = f"rank {first['rank']} on node {first['node']} lost the race for a port; the gang is started once more"
        self._log.add(event.NOTE, level="warning", text=text)
        self._gang.ends.start_over()
        self._gang.facts.update(await self._gang.ask_all("facts"))
        await self._or_halt(self._start())
        return await self._until_ended()

    async def _start(self) -> None:
        assert self._network is not None
        hosts = [facts["host"] for facts in self._gang.facts.values()]
        shared = {"shared_host": "yes" if len(set(hosts)) < len(hosts) else ""}
        here = [{**known, **shared} for known in self._network.here()]
        await self._gang.ask_all("start", hosts=self._network.addresses, ports=await self._ports(), here=here)
        if self._a.plan.starter is not None:
            await self._gang.ask(0, "starter")
        self._record.enter(RunState.RUNNING)
        self._log.add(event.STATE, state=RunState.RUNNING.value)
        await self._save()

    async def _ports(self) -> list[dict[str, int]]:
        """Give every node's ports, found free on the address that it trains over."""
        assert self._network is not None
        return [await self._ports_of(node, address) for node, address in enumerate(self._network.addresses)]

    async def _ports_of(self, node: int, address: str) -> dict[str, int]:
        facts = self._gang.facts[node]
        if address != facts["address"] and facts["ports"]:
            facts["ports"] = await self._gang.ask(node, "ports", address=address)
        ports: dict[str, int] = facts["ports"]
        return ports

    async def _until_ended(self) -> Verdict | None:
        """Wait for the first of: all deciding ranks done, a failure, a lost node, a halt. Then end what still runs."""
        decided = asyncio.ensure_future(self._gang.ends.decided.wait())
        await self._first_of(decided)
        decided.cancel()
        lost = self._gang.lost_verdict()
        await self._stop()
        if self._halt.done():
            return self._halt.result()
        return lost or self._gang.first_failure() or self._gang.lost_verdict()

    async def _stop(self) -> None:
        await self._gang.stop(within=self._a.plan.limits.grace + STOP_SLACK)
        for end in self._gang.ends.by_rank.values():
            self._record.rank_ended(end)

    async def _save(self) -> None:
        await self._work.syncer.tell("record", record=self._record.data)


_NO_REASON = Verdict(cause=Cause.NODE, detail="the run was stopped")
