"""SlurmTarget: a Slurm cluster; every job one sbatch, every node of it one task that becomes Muster's agent.

The login node is this machine or reached over SSH; ``root`` is a folder that it shares with the compute nodes.

Offered: queues, partitions, QOS, accounts, time limits and constraints; whole gangs of nodes; GPUs as GRES; requeue and
preemption, resumed from the last committed checkpoint; modules, a prologue, a container wrapper; environments as venvs on the
shared folder; jobs of hundreds of handles watched by one question. Not offered: images that Muster builds (name one by the
wrapper), ``docker_arguments``; a lost node is replaced by Slurm's requeue, not while the job runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from muster.core.finding import Finding
from muster.core.handle import JobHandle
from muster.core.plan import JobPlan
from muster.targets import bare_metal
from muster.targets.claim import AttemptStatus
from muster.targets.contract import Log, Session
from muster.targets.hosts import cache
from muster.targets.hosts.background import background
from muster.targets.lifecycle import Lifecycle
from muster.targets.slurm.check import check, check_mounts
from muster.targets.slurm.cluster import Cluster
from muster.targets.slurm.feed import SlurmFeed
from muster.targets.slurm.ledger import SlurmLedger, SlurmStanding, SlurmTiming
from muster.targets.slurm.login_node import LoginNode
from muster.targets.slurm.options import Options
from muster.targets.watch.session import WatchSession


@dataclass(frozen=True, kw_only=True)
class SlurmTarget(Lifecycle[SlurmStanding]):
    """One cluster, with the way in which its jobs are submitted."""

    login: LoginNode
    options: Options
    name: str = "slurm"
    timing: SlurmTiming = field(default_factory=SlurmTiming)

    @classmethod
    def from_fields(cls, name: str, fields: Mapping[str, Any]) -> SlurmTarget:
        """Return the target of its plain fields.

        :raises RequestError: a field has a value that it can't have.
        """
        return cls(login=LoginNode.from_fields(fields), options=Options.from_fields(fields), name=name)

    # -- contract

    def prepare(self, plan: JobPlan, log: Log) -> None:
        """Install the agent and the plan's environment in the shared folder, or find them by their digests."""
        mounts = plan.container.mounts
        bare_metal.check_plan(replace(plan, container=replace(plan.container, mounts=())), self.name, log)

        async def prepared(cluster: Cluster) -> None:
            connection = cluster.connection
            seen = await connection.inspect()
            await check_mounts(cluster, mounts, self.name)
            if cache.environment_name(plan.environment):
                arguments = (seen.root, seen.python, plan.environment, log)
                await connection.use(lambda shell: cache.ensure_environment(shell, *arguments))

        background().run(prepared(self.ledger.cluster))

    def session(self) -> Session:
        """Open a session; all of a process share one connection and one question to Slurm."""
        return WatchSession(lambda: SlurmFeed(self._cluster, self.timing), self.timing)

    def cancel(self, handle: JobHandle, generation: int, reason: str = "cancelled") -> bool:
        """End the job if ``generation`` still owns it; waits until Slurm has nothing left of it."""
        ledger = self.ledger
        owner = ledger.request_cancel(handle.job_id, generation, reason)  # before Slurm is asked, which may not answer
        if super().cancel(handle, generation, reason):
            return True
        if owner is not None:
            ledger.delete_credentials(owner)
        return False

    def release(self, handle: JobHandle) -> None:
        """Delete the run's credentials from the shared folder, unless it lives; the rest stays for people to look into."""
        ledger = self.ledger
        standing = ledger.standing(handle.job_id)
        if standing.claim is not None and standing.status is not AttemptStatus.RUNNING:
            ledger.delete_credentials(handle)

    def check(self) -> tuple[Finding, ...]:
        """Check the login node, the shared folder, Slurm's commands, the partition and its nodes."""
        return background().run(check(self.ledger.cluster))

    @property
    def ledger(self) -> SlurmLedger:
        """Return the jobs of the cluster."""
        return SlurmLedger(cluster=background().run(self._cluster()), target=self.name, timing=self.timing)

    # -- the background loop

    async def _cluster(self) -> Cluster:
        """Return the process's own; must be called in the background loop."""
        return background().once(("slurm", self.login, self.options), lambda: Cluster(self.login, self.options))
