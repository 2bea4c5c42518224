"""SshJobs: the hosts of one inventory as a process shares them: connections, the queue, and who waits for it."""

from __future__ import annotations

import asyncio

from muster.core.attempt import AttemptId
from muster.core.errors import MusterError, UnknownRun
from muster.core.plan import JobPlan
from muster.targets.contract import Log
from muster.targets.hosts import cache
from muster.targets.hosts.background import Background
from muster.targets.hosts.connection import HostConnection
from muster.targets.ssh.inventory import Host, Inventory
from muster.targets.ssh.queue_client import QueueClient, QueuedJob
from muster.targets.ssh.queue_watch import QueueWatcher


class SshJobs:
    """The jobs of one inventory; lives in the background loop, once in a process however many callers there are."""

    def __init__(self, inventory: Inventory, shared: Background) -> None:
        self.inventory = inventory
        # inventories may differ in what they say of a host, and still share the connection to it
        self._connections = {host.name: _connection(host, shared) for host in inventory.hosts}
        self.queue = QueueClient(inventory, self._connections[inventory.hosts[0].name])
        self.waiting = QueueWatcher(self.queue, self.connection)

    def connection(self, name: str) -> HostConnection:
        """Return the connection to a host.

        :raises RequestError: the inventory has no such host (any more).
        """
        return self._connections[self.inventory.host(name).name]

    # -- before a job

    async def prepare(self, plan: JobPlan, log: Log) -> None:
        """Install agent and environment on the hosts; report unreachable hosts, unless too few are left."""
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

    # -- jobs that there are

    async def seen(self, wanted: AttemptId) -> QueuedJob:
        """Return what the queue server knows of an attempt.

        :raises UnknownRun: nothing.
        """
        seen = await self.queue.inspect(wanted)
        if seen.claim is None or seen.entry is None:
            host, which = self.inventory.hosts[0].name, f"attempt {wanted.attempt} of run {wanted.job_id!r}"
            raise UnknownRun(f"no {which} on the hosts whose queue {host} keeps; `muster ls` lists those in the store")
        return seen


def _connection(host: Host, shared: Background) -> HostConnection:
    return shared.once((host.login, host.root, host.python), lambda: HostConnection(host))
