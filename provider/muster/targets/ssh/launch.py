"""Launches a granted attempt on its hosts; all hosts are prepared before any agent starts."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from muster.core.codec import from_data
from muster.core.errors import MusterError, RequestError, TargetError
from muster.core.event import Event
from muster.core.plan import JobPlan
from muster.node.host import node_control
from muster.node.host.gang_scheduler import LAUNCHED, STARTING, Allocation, QueueEntry
from muster.node.host.node_control import AbandonLaunch, StartNode
from muster.node.host.queue_control import LEASE, AcquireLease, FinishStart, RecordStart, RenewLease, ReturnAllocations
from muster.node.rpc import Request
from muster.targets.claim import Claim
from muster.targets.contract import Log
from muster.targets.hosts import cache, host_files
from muster.targets.hosts.connection import HostConnection
from muster.targets.hosts.host_files import HostInfo
from muster.targets.hosts.shell import ConnectionLost, Shell, Stream
from muster.targets.hosts.ssh_errors import BadHosts, gather_hosts
from muster.targets.ssh import preflight
from muster.targets.ssh.end_events import unplaced
from muster.targets.ssh.launch_bundle import BUNDLE, Attempt, Files, LaunchBundle, PreparedHost
from muster.targets.ssh.queue_client import QueueClient

START_TIME = 300.0  # seconds to unpack the code and start an agent
OVER_SLACK = 900.0  # seconds beyond all limits of a run after which no agent is alive, whatever the clocks show
Connections = Callable[[str], HostConnection]


class LeaseLost(Exception):
    """The lease belongs to another launcher, or the attempt has left the queue."""


class LaunchUncertain(TargetError):
    """A launch was broken off, and a host that is unreachable may have an agent; allocations are kept until it answers."""


class Launch:
    """One launch of an attempt; ``connections`` returns a host's connection, ``files``: the launch bundle if at hand."""

    def __init__(self, queue: QueueClient, connections: Connections, log: Log, files: Files | None = None) -> None:
        self._files = files
        self._queue = queue
        self._connections = connections
        self._log = log
        self._name = secrets.token_hex(8)
        self._begun: tuple[Allocation, ...] = ()  # where this launch or an earlier one may have started agents

    async def run(self, entry: QueueEntry) -> QueueEntry | None:
        """Launch the attempt; return its entry: launched, or waiting again because a host could not be used.

        Return None if another launcher has the lease, or the attempt has left the queue.

        :raises LaunchUncertain: the launch was broken off; a watcher tries again when the lease has run out.
        :raises MusterError: too few usable hosts are left; the attempt has left the queue with that error as its end.
        """
        lease = await self._queue.ask(AcquireLease(id=entry.id, launcher=self._name))
        if lease is None:
            return None
        taken = lease.entry
        self._begun = taken.allocations if taken.state == STARTING else ()
        async with self._renewing(taken):
            try:
                return await self._try(taken, from_data(Claim, lease.claim), lease.waited)
            except LeaseLost:
                return None
            except BadHosts as bad:
                return await self._return_allocations(taken, bad)

    async def end(self, entry: QueueEntry, end: Event, end_nodes: Callable[[QueueEntry], Awaitable[None]]) -> bool:
        """End an attempt whose launcher has died, so that no other launch follows; return False if a launcher has the lease."""
        lease = await self._queue.ask(AcquireLease(id=entry.id, launcher=self._name))
        if lease is None:
            return False
        async with self._renewing(lease.entry):
            await end_nodes(lease.entry)
            return (await self._queue.withdraw(lease.entry, end, self._name))[0]

    async def _try(self, entry: QueueEntry, claim: Claim, waited: float) -> QueueEntry:
        try:
            return await self._launch(entry, claim, waited)
        except (LeaseLost, BadHosts, MusterError):
            raise  # a MusterError here: the queue server does not answer
        except Exception as error:  # a bug of ours must end the run by name, not have it launched for ever
            broken = TargetError(f"the launch of run {entry.job} broke: {type(error).__name__}: {error}")
            raise BadHosts({allocation.host: broken for allocation in entry.allocations}) from error

    async def _launch(self, entry: QueueEntry, claim: Claim, waited: float) -> QueueEntry:
        files = await self._bundle(entry)
        bundle = from_data(LaunchBundle, json.loads(files[BUNDLE][0]))
        ready = await self._all(entry, [self._prepared(allocation.host, bundle) for allocation in entry.allocations])
        if self._has_spares(entry) and not bundle.commits:
            await self._inspect(entry, ready, bundle.plan)
        folders = [f"{r.info.root}/jobs/{entry.job}/{entry.id.folder}/node-{n}" for n, r in enumerate(ready)]
        limits = bundle.plan.limits
        over = claim.deadline(limits.max_run_duration) + waited + limits.grace + limits.store_patience + OVER_SLACK
        await self._check_lease(RecordStart(id=entry.id, launcher=self._name, folders=tuple(folders), over=over))
        allocations = tuple(dataclasses.replace(p, folder=f) for p, f in zip(entry.allocations, folders, strict=True))
        self._begun = allocations
        attempt = Attempt(
            entry=entry,
            claim=claim,
            bundle=bundle,
            files=files,
            ready=tuple(ready),
            folders=tuple(folders),
            waited=waited,
            claim_host=self._queue.inventory.hosts[0].name,
        )
        await self._all(entry, [self._start(attempt, node, own) for node, own in enumerate(attempt.node_files())])
        await self._check_lease(FinishStart(id=entry.id, launcher=self._name))
        return dataclasses.replace(entry, state=LAUNCHED, allocations=allocations)

    # -- preparing hosts

    async def _prepared(self, name: str, bundle: LaunchBundle) -> PreparedHost:
        connection = self._connections(name)
        return await connection.use(lambda shell: self._prepare(connection, shell, bundle))

    async def _prepare(self, connection: HostConnection, shell: Shell, bundle: LaunchBundle) -> PreparedHost:
        environment = cache.environment_name(bundle.plan.environment)
        seen = await connection.inspect(*filter(None, [environment, bundle.archive]))
        ref, host = bundle.plan.environment, connection.host
        interpreter = ref.interpreter or (f"{seen.root}/{environment}/bin/python" if environment else seen.python)
        if environment and environment not in seen.have:
            interpreter = await cache.ensure_environment(shell, host.root, host.python, ref, self._log)
        if bundle.archive and bundle.archive not in seen.have:
            await self._copy_archive(shell, seen, bundle.archive)
        archive = f"{seen.root}/{bundle.archive}" if bundle.archive else ""
        address = self._queue.inventory.host(host.name).address
        return PreparedHost(connection=connection, address=address, info=seen, interpreter=interpreter, archive=archive)

    async def _copy_archive(self, shell: Shell, seen: HostInfo, name: str) -> None:
        """Copy packed code from the first host to another host, piece by piece."""
        first = await self._queue.connection.info()
        there, path = await self._queue.connection.shell(), f"{first.root}/{name}"
        size = await there.run(["stat", "-c", "%s", path])
        source = await there.open(["cat", path])
        try:
            what = f"reading {name}"
            await host_files.send_file(
                shell, seen.python, seen.root, name, int(size.out or 0), _stream(source, there.machine, what)
            )
        finally:
            await source.close()

    async def _bundle(self, entry: QueueEntry) -> Files:
        """Return the launch bundle, fetched from the first host unless it is at hand."""
        if self._files is not None:
            return self._files
        command = ["tar", "-C", entry.bundle, "-cf", "-", "."]
        done = await self._queue.connection.use(lambda shell: shell.run(command, limit=60.0))
        if done.code and not (await self._queue.inspect(entry.id)).live:
            raise LeaseLost
        if done.code:  # it would be so for whoever tries next
            gone = TargetError(f"what run {entry.job} is launched with can't be read: {done.message}; submit it again")
            raise BadHosts({allocation.host: gone for allocation in entry.allocations})
        return host_files.files_of(done.out)

    # -- inspecting hosts where there are spares

    def _has_spares(self, entry: QueueEntry) -> bool:
        return any(host.spare and host.name not in entry.excluded for host in self._queue.inventory.hosts)

    async def _inspect(self, entry: QueueEntry, ready: list[PreparedHost], plan: JobPlan) -> None:
        """Inspect all hosts and all pairs of hosts as agents would; a host that does not fit is replaced by a spare."""
        try:
            await preflight.inspect(entry, ready, plan)
        except BadHosts as bad:
            if not all(isinstance(error, ConnectionLost) for error in bad.hosts.values()):
                raise
            await preflight.inspect(entry, ready, plan)  # a connection was lost, of which there is another by now

    # -- starting agents

    async def _start(self, attempt: Attempt, node: int, files: Files) -> None:
        entry, bundle, ready = attempt.entry, attempt.bundle, attempt.ready[node]
        request = StartNode(
            folder=attempt.folders[node],
            launch=entry.launch,
            marker=entry.id.marker,
            mounts=tuple(mount.source for mount in bundle.plan.container.mounts),
            archive=ready.archive,
            earlier=bundle.output_folders(node),
        )
        reply = await ready.connection.ask(node_control.PART, request, tail=host_files.tar_of(files), limit=START_TIME)
        if reply.stale:
            raise LeaseLost
        if reply.refused:
            raise RequestError(f"host {ready.connection.host.name}: {reply.refused}")

    async def _undo(self, entry: QueueEntry) -> list[str]:
        """End what a launch that is given up has started; return the hosts that did not confirm that nothing is left."""

        async def undone(allocation: Allocation) -> bool:
            try:
                connection = self._connections(allocation.host)
            except MusterError:
                return True  # the inventory has no such host any more, so no job can get it
            request = AbandonLaunch(folder=allocation.folder, launch=entry.launch, keep_outputs=entry.is_fixed)
            try:
                return not await connection.ask(node_control.PART, request)
            except MusterError:
                return False

        done = await asyncio.gather(*(undone(allocation) for allocation in self._begun))
        return [allocation.host for allocation, well in zip(self._begun, done, strict=True) if not well]

    # -- the lease, and returning allocations

    async def _all(self, entry: QueueEntry, work: list[Any]) -> list[Any]:
        return await gather_hosts([allocation.host for allocation in entry.allocations], work)

    async def _check_lease(self, request: Request[bool]) -> None:
        if not await self._queue.ask(request):
            raise LeaseLost

    @contextlib.asynccontextmanager
    async def _renewing(self, entry: QueueEntry) -> AsyncIterator[None]:
        async def renew() -> None:
            while True:
                await asyncio.sleep(LEASE / 3)
                with contextlib.suppress(TargetError):
                    await self._queue.ask(RenewLease(id=entry.id, launcher=self._name))

        task = asyncio.get_running_loop().create_task(renew())
        try:
            yield
        finally:
            task.cancel()

    async def _return_allocations(self, entry: QueueEntry, bad: BadHosts) -> QueueEntry | None:
        """Return the allocations, and wait for others without the bad hosts; raise a bad host's error if too few are left.

        Nothing is returned while an unreachable host may have an agent.
        """
        reasons = {host: " ".join(str(error).split()) for host, error in bad.hosts.items()}
        if unreachable := await self._undo(entry):
            why, who = next(iter(reasons.values())), ", ".join(unreachable)
            raise LaunchUncertain(f"the launch was broken off ({why}); it is tried again once {who} can say what lives there")
        hosts = self._queue.inventory.capacity
        reply = await self._queue.ask(ReturnAllocations(id=entry.id, launcher=self._name, bad=reasons, hosts=hosts))
        if reply is None:
            return None
        if len(reply.able) < entry.nodes:
            error = next(iter(bad.hosts.values()))
            await self._queue.withdraw(reply.entry, unplaced(entry, reasons))
            raise error
        for reason in reasons.values():
            self._log(reason)
        return reply.entry


async def _stream(source: Stream, machine: str, what: str) -> AsyncIterator[bytes]:
    """Yield a command's output.

    :raises TargetError: the command has failed, or was cut off.
    """
    while data := await source.read(1 << 18):
        yield data
    done = await source.wait()
    if done.code:
        raise host_files.refusal(done, machine, what, "cat")
