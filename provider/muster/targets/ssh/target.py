"""SshTarget: an inventory of hosts reached over SSH; every node a host, its agent living on without the connection.

Offered: several machines without a shared file system, slots and GPUs given to whole gangs in order from one queue on the first
host, spare hosts in place of bad ones, environments as cached venvs, user-managed interpreters, re-attaching from any machine.
Not offered: limits on CPU and memory, other users than the login's, containers; two nodes of one job on one host.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from muster.core.errors import RequestError
from muster.core.finding import Finding
from muster.core.handle import JobHandle
from muster.core.plan import ContainerOptions, JobPlan
from muster.targets import bare_metal
from muster.targets.contract import Log, Session, Submission
from muster.targets.hosts.background import Background, background
from muster.targets.lifecycle import Lifecycle
from muster.targets.ssh.check import check
from muster.targets.ssh.feed import SshFeed
from muster.targets.ssh.inventory import Inventory
from muster.targets.ssh.jobs import SshJobs
from muster.targets.ssh.ledger import SshLedger, SshStanding, SshTiming
from muster.targets.watch.session import WatchSession


@dataclass(frozen=True)
class SshTarget(Lifecycle[SshStanding]):
    """Hosts; all targets of one inventory in a process share their connections."""

    inventory: Inventory
    name: str = "ssh"
    timing: SshTiming = field(default_factory=SshTiming)

    @classmethod
    def from_fields(cls, name: str, fields: Mapping[str, Any]) -> SshTarget:
        """Return the target of its plain fields.

        :raises RequestError: a field has a value that it can't have.
        """
        return cls(inventory=Inventory.from_fields(fields), name=name)

    # -- contract

    def prepare(self, plan: JobPlan, log: Log) -> None:
        """Build the environment on the hosts, or find it there by its digest.

        :raises RequestError: the plan wants what hosts have not, or more of them than there are.
        """
        _check_mounts(plan, self.name)
        bare_metal.check_plan(dataclasses.replace(plan, container=_without_mounts(plan.container)), self.name, log)
        self.inventory.check(plan, self.name)
        self._background.run(self._jobs.prepare(plan, log))

    def submit(self, submission: Submission) -> JobHandle:
        """Create the job, or return its running attempt; a job whose turn has not come is launched by its watch."""
        self.inventory.check(submission.plan, self.name)
        return super().submit(submission)

    def session(self) -> Session:
        """Open a session; it shares the connections that there are."""
        return WatchSession(lambda: SshFeed(self._jobs, self.timing), self.timing)

    def release(self, handle: JobHandle) -> None:
        """Keep the job's folders for people; hosts and GPUs were released when its agents ended."""

    def check(self) -> tuple[Finding, ...]:
        """Check every host: host key, login, Python, clock, disk, GPUs."""
        return self._background.run(check(self.inventory))

    @property
    def ledger(self) -> SshLedger:
        """Return the jobs of the inventory."""
        return SshLedger(jobs=self._jobs, target=self.name, timing=self.timing)

    # -- shared in this process

    @property
    def _background(self) -> Background:
        return background()

    @cached_property
    def _jobs(self) -> SshJobs:
        shared = self._background

        async def made() -> SshJobs:
            return shared.once(self.inventory, lambda: SshJobs(self.inventory, shared))

        return shared.run(made())


def _check_mounts(plan: JobPlan, target: str) -> None:
    """Refuse a folder under another name; whether it is there, its host says when the node is laid out."""
    for mount in plan.container.mounts:
        if mount.source != mount.target:
            raise RequestError(
                f"mounts: {mount.source!r} can't be shown at {mount.target!r} on target {target!r}, whose nodes are no "
                "containers; use the same path for both, or choose a docker target"
            )


def _without_mounts(container: ContainerOptions) -> ContainerOptions:
    return dataclasses.replace(container, mounts=())
