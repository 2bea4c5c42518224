"""The leader: the agent of node 0; gathers the nodes, starts the gang and finds out how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from muster.core import event
from muster.core.codec import to_data
from muster.core.state import RunState
from muster.core.verdict import Cause, Verdict
from muster.node import cancel_request, mesh
from muster.node.agent.commands import InspectNode, Restore
from muster.node.agent.elastic import ElasticMembership
from muster.node.agent.executor import NodeExecutor
from muster.node.agent.finalizer import Finalizer, commit_hint
from muster.node.agent.gang import FixedMembership, Gang, NodeFailed
from muster.node.agent.rendezvous import Rendezvous
from muster.node.agent.run_record import RunRecord
from muster.node.assignment import Assignment
from muster.node.mesh import PeerLost
from muster.node.preflight import facts, network
from muster.node.preflight.preflight import PreflightFailed
from muster.node.rpc import CommandFailed
from muster.node.sync_commands import CheckStore, PutRecord


class Stopped(Exception):
    """The run is to end; carries the verdict."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.summary())
        self.verdict = verdict


class Leader:
    """Runs one attempt, from the first node that joins to the last event in the log.

    ``halt`` is set, by a cancel, the deadline or a fence, to the verdict with which the run is to end.
    """

    def __init__(self, assignment: Assignment, executor: NodeExecutor, halt: asyncio.Future[Verdict]) -> None:
        self._a = assignment
        self._executor = executor
        self._log = executor.log
        self._halt = halt
        self._record = RunRecord(assignment, executor.paths.root.parent)
        elastic = assignment.plan.elastic
        self._membership = (
            ElasticMembership(assignment, executor, self._record) if elastic else FixedMembership(assignment.plan)
        )
        self._gang = Gang(assignment.plan, executor, halt, self._membership)
        self._network: network.Choice | None = None

    async def run(self) -> None:
        """Lead the attempt to its end."""
        self._executor.syncer.start()
        self._log.add(event.STATE, state=RunState.STARTING.value)
        for note in self._a.notes:
            self._log.add(event.NOTE, level="warning", text=note)
        address = self._a.addresses[0] and await asyncio.to_thread(facts.resolve_host, self._a.addresses[0])
        server = await mesh.listen(address, self._a.id.marker, self._executor.paths.certificate, self._gang.on_peer)
        finalizer = Finalizer(self._a, self._executor, self._gang, self._record)
        verdict = await cancel_request.explain_verdict(await self._train(), self._executor.paths.cancel, self._a.term_timeout)
        await finalizer.run(verdict, self._halt)
        await self._gang.close()
        server.close()

    async def _train(self) -> Verdict | None:
        """Gather, check, start and wait; return why the run did not complete, None if it did."""
        try:
            await self._or_halt(self._prepare())
            return None if self._a.commit_only else await self._run_gang()
        except (Stopped, NodeFailed) as ended:
            await self._stop()
            return ended.verdict
        except PeerLost as lost:
            await self._stop()
            return self._membership.lost_verdict() or Verdict(cause=Cause.NODE, detail=str(lost))

    async def _or_halt(self, work: Coroutine[Any, Any, None]) -> None:
        """Await ``work``, unless a halt or the loss of a node comes first."""
        task = asyncio.ensure_future(work)
        await self._first_of(task)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise Stopped(self._halt.result() if self._halt.done() else self._membership.lost_verdict() or _NO_REASON)
        task.result()

    async def _first_of(self, task: asyncio.Future[Any]) -> None:
        """Wait for a task, a halt, or the loss of a node, whichever comes first."""
        awaited: list[asyncio.Future[Any]] = [task, self._halt, *self._membership.losses()]
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)

    # -- before the ranks

    async def _prepare(self) -> None:
        check = asyncio.ensure_future(self._check_store())
        try:
            await self._inspect()
            await check
        finally:
            check.cancel()
        if not self._a.commit_only:
            await self._restore()

    async def _check_store(self) -> None:
        try:
            await self._executor.syncer.call(CheckStore(snapshot=self._a.plan.snapshot, archive=self._a.archive or None))
        except CommandFailed as error:
            raise Stopped(self._unusable(str(error))) from None
        await self._save()

    def _unusable(self, error: str) -> Verdict:
        """Return the verdict on a store that can't be used; with completed ranks it is no wrong request, and can wait."""
        if not self._a.commit_only:
            return Verdict(cause=Cause.REQUEST, detail=error)
        detail = f"training has completed, but its outputs are still not stored: {error}"
        return Verdict(cause=Cause.STORE, detail=detail, hint=commit_hint(self._a.job_id))

    async def _inspect(self) -> None:
        """Gather the nodes and choose their network; record those that came, whether they fit or not."""
        rendezvous = Rendezvous(self._a, self._gang, self._log, self._executor.paths.certificate)
        try:
            self._network = await rendezvous.run()
        except PreflightFailed as refused:
            raise Stopped(refused.verdict) from None
        finally:
            facts = [self._gang.facts[node] for node in sorted(self._gang.facts)]
            folders = [{"node": node.node, "path": node.folder} for node in facts]
            self._record.data.update(nodes=to_data(facts), host_folders=folders)
        if self._network is not None:
            self._record.data["networks"] = list(self._network.networks)

    async def _restore(self) -> None:
        run, generation = self._a.resumes
        if not run:
            return
        answers = await self._gang.ask_all(Restore(run=run, generation=generation, newest=self._a.plan.elastic))
        failed = [restored.error for restored in answers.values() if restored.error]
        if failed:
            raise Stopped(Verdict(cause=Cause.NODE, detail=f"the checkpoints of {run} can't be put in place: {failed[0]}"))
        count = max(restored.files for restored in answers.values())
        if count:
            self._log.add(event.NOTE, level="info", text=f"resumed from the last committed checkpoint of {run} ({count} files)")

    # -- the ranks

    async def _run_gang(self) -> Verdict | None:
        """Start the gang and wait for its end; once more if a rank lost the race for a port."""
        await self._or_halt(self._start())
        verdict = await self._until_ended()
        race = self._gang.lost_port_race()
        if verdict is None or verdict.cause is not Cause.RANK or race is None:
            return verdict
        text = f"rank {race[0]} on node {race[1]} lost the race for a port; the gang is started once more"
        self._log.add(event.NOTE, level="warning", text=text)
        self._gang.exits.reset()
        self._gang.facts.update(await self._gang.ask_all(InspectNode()))
        await self._or_halt(self._start())
        return await self._until_ended()

    async def _start(self) -> None:
        assert self._network is not None
        await self._membership.start(self._network)
        self._record.enter(RunState.RUNNING)
        self._log.add(event.STATE, state=RunState.RUNNING.value)
        await self._save()

    async def _until_ended(self) -> Verdict | None:
        """Wait for the first of: all deciding ranks done, a failure, a lost node, a halt. Then end what still runs."""
        decided = asyncio.ensure_future(self._gang.exits.decided.wait())
        await self._first_of(decided)
        decided.cancel()
        self._membership.ranks_ended()
        lost = self._membership.lost_verdict()
        await self._stop()
        if self._halt.done():
            return self._halt.result()
        return lost or self._gang.first_failure() or self._membership.lost_verdict()

    async def _stop(self) -> None:
        await self._gang.stop()
        for end in self._gang.exits.by_rank.values():
            self._record.rank_ended(end)

    async def _save(self) -> None:
        await self._executor.syncer.notify(PutRecord(record=self._record.data))


_NO_REASON = Verdict(cause=Cause.NODE, detail="the run was stopped")
