"""SshJobs: what a target of hosts does with jobs, all of it in the background loop: claim, wait, launch, look, end, remove."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Iterable
from dataclasses import dataclass

from muster.core.attempt import AttemptId
from muster.core.errors import MusterError, TargetError, UnknownRun
from muster.core.event import Event
from muster.core.handle import JobHandle, SubmitResult
from muster.core.plan import JobPlan
from muster.core.store_access import StoreAccess
from muster.core.verdict import Cause
from muster.node.cancel_request import CancelRequest
from muster.node.host import node_control
from muster.node.host.gang_scheduler import GRANTED, LAUNCHED, Allocation, QueueEntry, ResourceRequest
from muster.node.host.node_control import EndNodes, InspectNodes, NodeStatus, ReadAssignment, RemoveNodes
from muster.targets.claim import Claim, Found, Step, found_of, next_claim, next_step
from muster.targets.contract import Log, Submission
from muster.targets.hosts import cache
from muster.targets.hosts.background import Background
from muster.targets.hosts.connection import HostConnection
from muster.targets.hosts.ssh_errors import Unreachable
from muster.targets.ssh.end_events import cancelled
from muster.targets.ssh.inventory import Host, Inventory, slots_of
from muster.targets.ssh.launch import Launch, LaunchUncertain
from muster.targets.ssh.launch_bundle import LaunchBundle
from muster.targets.ssh.queue_client import QueueClient, QueuedJob
from muster.targets.ssh.queue_watch import QueueWatcher
from muster.targets.ssh.uncommitted import uncommitted_outputs

KILL_SLACK = 45.0  # seconds beyond the grace in which cancelled agents must have left
LAUNCH_TIME = 600.0  # seconds for another launcher to come to an end, with environments to be built
PAUSE = 0.2


@dataclass(frozen=True, kw_only=True)
class Became:
    """What became of the claimed attempt; ``end`` of one that has ended."""

    claim: Claim | None = None
    entry: QueueEntry | None = None
    live: bool = False
    found: Found | None = None
    end: Event | None = None


class SshJobs:
    """The jobs of one inventory; lives in the background loop, once in a process however many callers there are."""

    def __init__(self, inventory: Inventory, shared: Background) -> None:
        self.inventory = inventory
        # inventories may differ in what they say of a host, and still share the connection to it
        self._connections = {host.name: _connection(host, shared) for host in inventory.hosts}
        self.queue = QueueClient(inventory, self._connections[inventory.hosts[0].name])
        self.waiting = QueueWatcher(self.queue, self.connection)

    def connection(self, name: str) -> HostConnection:
        """Give the link to a host.

        :raises RequestError: the inventory has no such host (any more).
        """
        return self._connections[self.inventory.host(name).name]

    # -- before a job

    async def prepare(self, plan: JobPlan, log: Log) -> None:
        """Make sure of agent and environment on the hosts; one that can't be reached is told, unless too few are left."""
        hosts = [host for host in self.inventory.hosts if not host.spare]
        if not cache.environment_name(plan.environment):
            await self.queue.connection.use(lambda shell: self.queue.connection.inspect())
            return
        done = await asyncio.gather(*(self._prepare(host.name, plan, log) for host in hosts), return_exceptions=True)
        failed = [error for error in done if isinstance(error, BaseException)]
        for error in failed:
            if not isinstance(error, MusterError) or len(hosts) - len(failed) < len(plan.nodes):
                raise error
            log(f"{error}; jobs can't run there")

    async def _prepare(self, name: str, plan: JobPlan, log: Log) -> None:
        connection, host = self.connection(name), self.inventory.host(name)
        await connection.use(lambda shell: connection.inspect())
        await connection.use(lambda shell: cache.ensure_environment(shell, host.root, host.python, plan.environment, log))

    # -- submit

    async def submit(self, submission: Submission, target: str) -> JobHandle:
        """Get or create the job; see :class:`muster.targets.contract.ComputeTarget`."""
        digest = submission.plan.digest()
        while True:
            before = await self._became(submission.job_id)
            step = next_step(before.claim, before.found, submission.generation, digest)
            if step in (Step.ATTACH, Step.TAKE):
                assert before.claim is not None
                return before.claim.handle(target, SubmitResult.ATTACHED if step is Step.ATTACH else SubmitResult.COMPLETED)
            if before.found is Found.RUNNING:
                await self._end(before, "replaced by a newer submit")
                before = dataclasses.replace(before, end=(await self._became(submission.job_id)).end)
            claim = next_claim(before.claim, before.end, step, submission, digest)
            if await self._claim(claim, before, submission, target, commit=step is Step.COMMIT):
                return claim.handle(target, SubmitResult.LAUNCHED)

    async def _claim(self, claim: Claim, before: Became, submission: Submission, target: str, *, commit: bool) -> bool:
        """Claim an attempt and launch it if its turn has come; False if the job has another owner by now."""
        left = await uncommitted_outputs(before.claim, self.queue) if commit and before.claim else ()
        files = LaunchBundle.files_of(submission, target, tuple(node.folders for node in left))
        if submission.archive is not None:
            await self._store_archive(submission)
        bundle = await self.queue.put_bundle(claim.job_id, files)
        entry = await self.queue.claim(claim, before.claim, _resources(submission.plan, bundle, [node.host for node in left]))
        if entry is None:
            await self.queue.delete_bundle(bundle)
            return False
        with contextlib.suppress(LaunchUncertain):  # it is ours all the same, and whoever watches goes on with it
            while entry is not None and entry.state == GRANTED:
                entry = await Launch(self.queue, self.connection, lambda line: None, files).run(entry)
        return True

    async def _store_archive(self, submission: Submission) -> None:
        """Put the packed code to the claim place, whence other hosts get it."""
        archive, connection = submission.archive, self.queue.connection
        assert archive is not None
        name = f"snapshots/{archive.name}"
        seen = await connection.use(lambda shell: connection.inspect(name))
        if name not in seen.have:
            await connection.use(lambda shell: cache.put_archive(shell, seen, name, archive))

    # -- what became of an attempt

    async def seen(self, wanted: AttemptId) -> QueuedJob:
        """Return what the claim place knows of an attempt, generation 0 for the claimed one.

        :raises UnknownRun: nothing.
        """
        seen = await self.queue.look(wanted)
        if seen.claim is None or seen.entry is None:
            host = self.inventory.hosts[0].name
            which = f"attempt {wanted.attempt} of run {wanted.job_id!r}" if wanted.attempt else f"run {wanted.job_id!r}"
            raise UnknownRun(f"no {which} on the hosts whose queue {host} keeps; `muster ls` lists those in the store")
        return seen

    async def _became(self, job_id: str) -> Became:
        seen = await self.queue.look(AttemptId(job_id, 0, 0))
        if seen.claim is None or seen.entry is None:
            lost = found_of(running=False, end=None, commit=seen.claim.commit) if seen.claim else None
            return Became(claim=seen.claim, found=lost)
        running, end = await self._standing(seen)
        found = found_of(running=running, end=end, commit=seen.claim.commit)
        return Became(claim=seen.claim, entry=seen.entry, live=seen.live, found=found, end=end)

    async def _standing(self, seen: QueuedJob) -> tuple[bool, Event | None]:
        """Say whether an attempt waits or runs, and else its END if there is one."""
        entry = seen.entry
        assert entry is not None
        if seen.live and entry.state != LAUNCHED:  # it waits or is being launched, which whoever watches brings to its end
            return True, None
        if seen.end is not None:
            return False, seen.end
        nodes = await self._look(entry.allocations)
        if any(node.alive for node in nodes.values() if node):
            return True, None
        if nodes.get(0) is None and not entry.is_over:
            host = entry.allocations[0].host if entry.allocations else "?"
            raise Unreachable(
                f"host {host}, which led run {entry.job}, can't be asked how it stands; bring it up, and try again"
            )
        leader = nodes[0]
        return False, leader.end if leader else None

    async def _look(self, allocations: Iterable[Allocation]) -> dict[int, NodeStatus | None]:
        """Ask the hosts of an attempt how its nodes are; None for a host that does not answer."""

        async def look(allocation: Allocation) -> NodeStatus | None:
            try:
                connection = self.connection(allocation.host)
                return (await connection.ask(node_control.PART, InspectNodes(folders=(allocation.folder,))))[0]
            except TargetError:
                return None

        return dict(enumerate(await asyncio.gather(*(look(allocation) for allocation in allocations))))

    # -- the end

    async def cancel(self, handle: JobHandle, generation: int, reason: str) -> bool:
        """End the job if ``generation`` still owns it; waits until nothing of it is left."""
        became = await self._became(handle.job_id)
        if became.claim is None or became.claim.generation != generation or became.found is not Found.RUNNING:
            return False
        await self._end(became, reason)
        return True

    async def _end(self, became: Became, reason: str) -> None:
        """End an attempt that waits, is being launched, or runs."""
        entry, claim = became.entry, became.claim
        assert entry is not None
        assert claim is not None
        give_up, patience = time.monotonic() + LAUNCH_TIME, claim.grace + KILL_SLACK
        while became.live and entry.state != LAUNCHED and time.monotonic() < give_up:
            if await self._end_unlaunched(entry, reason, patience):
                self.waiting.wake()
                return
            await asyncio.sleep(PAUSE)
            seen = await self.seen(entry.id)
            entry = seen.entry or entry
            if not seen.live:
                return
        await self._end_nodes(entry, reason, patience)
        await self.queue.turn([], [entry.id])
        self.waiting.wake()

    async def _end_unlaunched(self, entry: QueueEntry, reason: str, patience: float) -> bool:
        """End an attempt that nobody launches, or whose launcher has died; False if somebody is at it."""
        end = cancelled(reason)
        withdrawn, leased = await self.queue.withdraw(entry, end)
        if withdrawn or leased:
            return withdrawn
        ender = Launch(self.queue, self.connection, lambda line: None)
        return await ender.end(entry, end, lambda taken: self._end_nodes(taken, reason, patience, launch=taken.launch))

    async def _end_nodes(self, entry: QueueEntry, reason: str, patience: float, launch: int = 0) -> None:
        async def end(allocation: Allocation) -> str:
            cancel = CancelRequest(cause=Cause.CANCEL, reason=reason)
            request = EndNodes(folders=(allocation.folder,), cancel=cancel, timeout=patience, launch=launch)
            try:
                connection = self.connection(allocation.host)
                left = await connection.ask(node_control.PART, request, limit=patience + 60.0)
            except MusterError as error:
                return f"host {allocation.host} can't be asked to end it ({error})"
            return f"host {allocation.host} has processes that could not be ended" if left else ""

        started = [allocation for allocation in entry.allocations if allocation.folder]
        failed = [text for text in await asyncio.gather(*map(end, started)) if text]
        if failed:
            raise TargetError(f"run {entry.job}: {failed[0]}; its ranks end when they miss the others; look at the host")

    async def commit(self, handle: JobHandle, access: StoreAccess, target: str) -> JobHandle:
        """Start agents that store what a completed run could not."""
        before = await self._became(handle.job_id)
        if before.claim is None or before.found is not Found.UNCOMMITTED:
            raise TargetError(
                f"run {handle.job_id} has nothing to commit: it is {before.found.value if before.found else 'unknown'}"
            )
        first = (await uncommitted_outputs(before.claim, self.queue))[0]
        request = ReadAssignment(folder=first.folders[-1])
        assignment = await self.connection(first.host).ask(node_control.PART, request)
        if assignment is None:
            raise TargetError(f"run {handle.job_id} has nothing to commit: {first.folders[-1]} is gone from host {first.host}")
        submission = Submission(
            job_id=before.claim.job_id,
            generation=before.claim.generation,
            plan=assignment.plan,
            archive=None,
            access=access,
            requested=time.time(),
        )
        claim = next_claim(before.claim, before.end, Step.COMMIT, submission, before.claim.plan_digest)
        if not await self._claim(claim, before, submission, target, commit=True):
            raise TargetError(f"run {handle.job_id} was submitted again meanwhile; watch that attempt")
        return claim.handle(target, SubmitResult.LAUNCHED)

    async def remove(self, job_id: str) -> None:
        """Delete everything of the job on all hosts."""
        became = await self._became(job_id)
        if became.found is Found.RUNNING:
            raise TargetError(f"run {job_id} is still running; cancel it first")
        for entry in await self.queue.attempts(job_id):
            for allocation in entry.allocations:
                if allocation.folder:
                    await self._remove(job_id, allocation)
        await self.queue.forget(job_id)

    async def _remove(self, job_id: str, allocation: Allocation) -> None:
        request = RemoveNodes(folders=(allocation.folder,))
        alive = await self.connection(allocation.host).ask(node_control.PART, request)
        if alive:
            raise TargetError(f"run {job_id} still has processes on host {allocation.host}; cancel it, and try again")


def _connection(host: Host, shared: Background) -> HostConnection:
    return shared.once((host.login, host.root, host.python), lambda: HostConnection(host))


def _resources(plan: JobPlan, bundle: str, hosts: list[str]) -> ResourceRequest:
    """Return what a plan asks of the queue; a commit takes nothing, on the ``hosts`` that have the outputs."""
    if hosts:
        allocations = tuple(Allocation(host=host) for host in hosts)
        return ResourceRequest(nodes=len(plan.nodes), slots=0, gpus=0, bundle=bundle, state=GRANTED, allocations=allocations)
    return ResourceRequest(nodes=len(plan.nodes), slots=slots_of(plan), gpus=plan.needs.gpus, bundle=bundle)
