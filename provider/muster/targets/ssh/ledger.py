"""SSH ledger: claims and queue on the inventory's first host, nodes on the hosts that the queue has allocated."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from muster.core.attempt import AttemptId
from muster.core.errors import MusterError, TargetError
from muster.core.event import Event
from muster.core.plan import JobPlan
from muster.core.verdict import Cause
from muster.node.cancel_request import CancelRequest
from muster.node.host import node_control
from muster.node.host.gang_scheduler import GRANTED, LAUNCHED, Allocation, QueueEntry, ResourceRequest
from muster.node.host.node_control import EndNodes, InspectNodes, NodeStatus, ReadAssignment, RemoveNodes
from muster.node.rpc import Request
from muster.targets.claim import Claim, status_of
from muster.targets.contract import Submission
from muster.targets.hosts import cache
from muster.targets.hosts.background import in_background
from muster.targets.hosts.ssh_errors import HostUnreachable
from muster.targets.lifecycle import Ledger, Standing, Timing
from muster.targets.ssh.end_events import cancelled
from muster.targets.ssh.inventory import slots_of
from muster.targets.ssh.jobs import SshJobs
from muster.targets.ssh.launch import Launch, LaunchUncertain
from muster.targets.ssh.launch_bundle import LaunchBundle
from muster.targets.ssh.queue_client import QueueClient, QueuedJob

POLL_INTERVAL = 0.2
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SshTiming(Timing):
    """Limits of waiting on hosts, in seconds."""

    not_responding: float = 30.0  # without a host, after which the job counts as not responding
    given_up: float = 60.0  # without a host, after which its node counts as lost, once other nodes of the job have ended
    given_up_after_end: float = 10.0  # the same once the run's END has been read
    launch: float = 600.0  # for another launcher to come to an end, with environments to be built


@dataclass(frozen=True, kw_only=True)
class SshStanding(Standing):
    """``entry``: the owner's place in the queue; ``live``: it has not left the queue."""

    entry: QueueEntry | None = None
    live: bool = False


@dataclass(frozen=True, kw_only=True)
class SshLedger(Ledger[SshStanding]):
    """Jobs of one inventory; works in the background loop, where ``jobs`` lives."""

    jobs: SshJobs
    target: str
    timing: SshTiming = field(default_factory=SshTiming)

    @property
    def location(self) -> str:
        """Return which host keeps the queue, for error messages."""
        return f"queue on host {self.jobs.inventory.hosts[0].name}"

    # -- launching

    @in_background
    async def launch(self, claim: Claim, before: SshStanding, submission: Submission) -> bool:
        """Claim the attempt at the queue if the job is still owned as ``before``; launch if hosts are granted at once."""
        left = await uncommitted_outputs(before.claim, self.jobs.queue) if claim.commit and before.claim else ()
        files = LaunchBundle.files_of(submission, self.target, tuple(node.folders for node in left))
        if submission.archive is not None:
            await self._store_archive(submission)
        bundle = await self.jobs.queue.put_bundle(claim.job_id, files)
        request = _resources(submission.plan, bundle, [node.host for node in left])
        entry = await self.jobs.queue.claim(claim, before.claim, request)
        if entry is None:
            await self.jobs.queue.delete_bundle(bundle)
            return False
        with contextlib.suppress(LaunchUncertain):  # it is ours all the same, and whoever watches goes on with it
            while entry is not None and entry.state == GRANTED:
                entry = await Launch(self.jobs.queue, self.jobs.connection, lambda line: None, files).run(entry)
        return True

    async def _store_archive(self, submission: Submission) -> None:
        """Store the packed code on the first host, from which other hosts get it."""
        archive, connection = submission.archive, self.jobs.queue.connection
        assert archive is not None
        name = f"snapshots/{archive.name}"
        seen = await connection.use(lambda shell: connection.inspect(name))
        if name not in seen.have:
            await connection.use(lambda shell: cache.put_archive(shell, seen, name, archive))

    # -- what became of an attempt

    @in_background
    async def owner(self, job_id: str) -> Claim | None:
        """Return who owns the job."""
        return (await self.jobs.queue.inspect(AttemptId(job_id, 0, 0))).claim

    @in_background
    async def standing(self, job_id: str) -> SshStanding:
        """Return who owns the job and what became of that attempt.

        :raises HostUnreachable: the host that led the attempt does not answer.
        """
        seen = await self.jobs.queue.inspect(AttemptId(job_id, 0, 0))
        if seen.claim is None:
            return SshStanding()
        running, end = await self._liveness(seen, seen.entry) if seen.entry else (False, None)
        status = status_of(running=running, end=end, commit=seen.claim.commit)
        return SshStanding(claim=seen.claim, entry=seen.entry, live=seen.live, status=status, end=end)

    async def _liveness(self, seen: QueuedJob, entry: QueueEntry) -> tuple[bool, Event | None]:
        """Return whether an attempt waits or runs, and if neither its END if there is one."""
        if seen.live and entry.state != LAUNCHED:  # it waits or is being launched, which whoever watches brings to its end
            return True, None
        if seen.end is not None:
            return False, seen.end
        nodes = await self._inspect_nodes(entry.allocations)
        if any(node.alive for node in nodes.values() if node):
            return True, None
        if nodes.get(0) is None and not entry.is_over:
            host = entry.allocations[0].host if entry.allocations else "?"
            raise HostUnreachable(
                f"host {host}, which led run {entry.job}, can't be asked how it stands; bring it up, and try again"
            )
        leader = nodes[0]
        return False, leader.end if leader else None

    async def _inspect_nodes(self, allocations: Iterable[Allocation]) -> dict[int, NodeStatus | None]:
        """Return the status of an attempt's nodes; None for a host that does not answer."""

        async def inspect(allocation: Allocation) -> NodeStatus | None:
            try:
                return (await self._ask(allocation.host, InspectNodes(folders=(allocation.folder,))))[0]
            except TargetError:
                return None

        return dict(enumerate(await asyncio.gather(*(inspect(allocation) for allocation in allocations))))

    # -- the end

    @in_background
    async def end(self, standing: SshStanding, reason: str) -> None:
        """End an attempt that waits, is being launched, or runs."""
        entry, claim = standing.entry, standing.claim
        assert entry is not None
        assert claim is not None
        deadline, timeout = time.monotonic() + self.timing.launch, claim.grace + self.timing.kill_slack
        while standing.live and entry.state != LAUNCHED and time.monotonic() < deadline:
            if await self._end_unlaunched(entry, reason, timeout):
                self.jobs.waiting.wake()
                return
            await asyncio.sleep(POLL_INTERVAL)
            seen = await self.jobs.seen(entry.id)
            entry = seen.entry or entry
            if not seen.live:
                return
        await self._end_nodes(entry, reason, timeout)
        await self.jobs.queue.advance([], [entry.id])
        self.jobs.waiting.wake()

    async def _end_unlaunched(self, entry: QueueEntry, reason: str, timeout: float) -> bool:
        """End an attempt that nobody launches, or whose launcher has died; False if somebody is at it."""
        end = cancelled(reason)
        withdrawn, leased = await self.jobs.queue.withdraw(entry, end)
        if withdrawn or leased:
            return withdrawn
        ender = Launch(self.jobs.queue, self.jobs.connection, lambda line: None)
        return await ender.end(entry, end, lambda taken: self._end_nodes(taken, reason, timeout, launch=taken.launch))

    async def _end_nodes(self, entry: QueueEntry, reason: str, timeout: float, launch: int = 0) -> None:
        async def end(allocation: Allocation) -> str:
            cancel = CancelRequest(cause=Cause.CANCEL, reason=reason)
            request = EndNodes(folders=(allocation.folder,), cancel=cancel, timeout=timeout, launch=launch)
            try:
                left = await self._ask(allocation.host, request, limit=timeout + 60.0)
            except MusterError as error:
                return f"host {allocation.host} can't be asked to end it ({error})"
            return f"host {allocation.host} has processes that could not be ended" if left else ""

        started = [allocation for allocation in entry.allocations if allocation.folder]
        failed = [text for text in await asyncio.gather(*map(end, started)) if text]
        if failed:
            raise TargetError(f"run {entry.job}: {failed[0]}; its ranks end when they miss the others; look at the host")

    # -- committing and deleting

    @in_background
    async def plan_of(self, standing: SshStanding) -> JobPlan:
        """Return the plan of the attempt whose outputs are not committed."""
        assert standing.claim is not None
        first = (await uncommitted_outputs(standing.claim, self.jobs.queue))[0]
        folder = first.folders[-1]
        assignment = await self._ask(first.host, ReadAssignment(folder=folder))
        if assignment is None:
            job_id = standing.claim.job_id
            raise TargetError(f"run {job_id} has nothing to commit: {folder} is gone from host {first.host}")
        return assignment.plan

    @in_background
    async def delete(self, job_id: str, standing: SshStanding) -> None:
        """Delete everything of the job on all hosts."""
        for entry in await self.jobs.queue.attempts(job_id):
            for allocation in entry.allocations:
                if allocation.folder:
                    await self._delete_node(job_id, allocation)
        await self.jobs.queue.delete(job_id)

    async def _delete_node(self, job_id: str, allocation: Allocation) -> None:
        alive = await self._ask(allocation.host, RemoveNodes(folders=(allocation.folder,)))
        if alive:
            raise TargetError(f"run {job_id} still has processes on host {allocation.host}; cancel it, and try again")

    async def _ask(self, host: str, request: Request[T], limit: float = 60.0) -> T:
        return await self.jobs.connection(host).ask(node_control.PART, request, limit=limit)


def _resources(plan: JobPlan, bundle: str, hosts: list[str]) -> ResourceRequest:
    """Return what a plan asks of the queue; a commit takes nothing, on the ``hosts`` that have the outputs."""
    if hosts:
        allocations = tuple(Allocation(host=host) for host in hosts)
        return ResourceRequest(nodes=len(plan.nodes), slots=0, gpus=0, bundle=bundle, state=GRANTED, allocations=allocations)
    return ResourceRequest(nodes=len(plan.nodes), slots=slots_of(plan), gpus=plan.needs.gpus, bundle=bundle)


# -- uncommitted outputs


@dataclass(frozen=True, kw_only=True)
class UncommittedOutputs:
    """Outputs of one node. ``folders``: of attempts on its host, the newest first; any of them may have the outputs."""

    host: str
    folders: tuple[str, ...]


async def uncommitted_outputs(claim: Claim, queue: QueueClient) -> tuple[UncommittedOutputs, ...]:
    """Return where the outputs of a job's ranks may lie: with their attempt, or a later one that should commit them.

    :raises TargetError: no entry of the job has them.
    """
    entries = [e for e in await queue.attempts(claim.job_id) if e.generation == claim.generation and e.attempt <= claim.attempt]
    entries.sort(key=lambda entry: -entry.attempt)
    trained = next((number for number, entry in enumerate(entries) if not entry.is_fixed), -1)
    if trained < 0 or not all(node.folder for node in entries[trained].allocations):
        raise TargetError(f"nobody knows where run {claim.job_id} left its outputs; clear the task to train anew")
    nodes = zip(*(entry.allocations for entry in entries[: trained + 1] if entry.allocations), strict=True)
    return tuple(UncommittedOutputs(host=node[-1].host, folders=tuple(p.folder for p in node if p.folder)) for node in nodes)
