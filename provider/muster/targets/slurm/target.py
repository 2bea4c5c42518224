"""SlurmTarget: a Slurm cluster; every job one sbatch, every node of it one task that becomes Muster's agent.

The login node is this machine or reached over SSH; ``root`` is a folder that it shares with the compute nodes.

Offered: queues, partitions, QOS, accounts, time limits and constraints; whole gangs of nodes; GPUs as GRES; requeue and
preemption, resumed from the last committed checkpoint; modules, a prologue, a container wrapper; environments as venvs on the
shared folder; jobs of hundreds of handles watched by one question. Not offered: images that Muster builds (name one by the
wrapper), ``docker_arguments``; a lost node is replaced by Slurm's requeue, not while the job runs.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from muster.core.errors import TargetError
from muster.core.finding import Finding
from muster.core.handle import JobHandle, SubmitResult
from muster.core.plan import JobPlan
from muster.core.store_access import StoreAccess
from muster.node.slurm.job_control import RemoveJob
from muster.targets import bare_metal
from muster.targets.claim import Found
from muster.targets.contract import Log, Session, Submission
from muster.targets.hosts import cache
from muster.targets.hosts.background import background
from muster.targets.slurm.check import check, check_mounts
from muster.targets.slurm.cluster import Cluster
from muster.targets.slurm.jobs import Jobs
from muster.targets.slurm.login_node import LoginNode
from muster.targets.slurm.options import Options
from muster.targets.slurm.session import SlurmSession

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SlurmTarget:
    """One cluster, with the way in which its jobs are submitted."""

    login: LoginNode
    options: Options
    name: str = "slurm"

    @classmethod
    def from_fields(cls, name: str, fields: Mapping[str, Any]) -> SlurmTarget:
        """Make a target of its plain fields.

        :raises RequestError: a field has a value that it can't have.
        """
        return cls(login=LoginNode.from_fields(fields), options=Options.from_fields(fields), name=name)

    # -- contract

    def prepare(self, plan: JobPlan, log: Log) -> None:
        """Put the agent and the plan's environment on the shared folder, or find them by their digests."""
        mounts = plan.container.mounts
        bare_metal.check(replace(plan, container=replace(plan.container, mounts=())), self.name, log)

        async def ready(jobs: Jobs) -> None:
            connection = jobs.cluster.connection
            seen = await connection.inspect()
            await check_mounts(jobs.cluster, mounts, self.name)
            if cache.environment_name(plan.environment):
                where = (seen.root, seen.python, plan.environment, log)
                await connection.use(lambda shell: cache.ensure_environment(shell, *where))

        self._do(ready)

    def submit(self, submission: Submission) -> JobHandle:
        """Get or create the job; see :class:`muster.targets.contract.ComputeTarget`."""
        return self._do(lambda jobs: jobs.submit(submission))

    def find(self, job_id: str) -> JobHandle:
        """Give the handle of a job's newest attempt."""

        async def newest(jobs: Jobs) -> JobHandle:
            return (await jobs.known(job_id)).owner.handle(self.name, SubmitResult.ATTACHED)

        return self._do(newest)

    def session(self) -> Session:
        """Open a session; all of a process share one connection and one question to Slurm."""
        return SlurmSession(self._cluster)

    def cancel(self, handle: JobHandle, generation: int, reason: str = "cancelled") -> bool:
        """End the job if ``generation`` still owns it; waits until Slurm has nothing left of it."""
        return self._do(lambda jobs: jobs.cancel(handle, generation, reason))

    def commit(self, handle: JobHandle, access: StoreAccess) -> JobHandle:
        """Submit a job that stores what a completed run could not."""
        return self._do(lambda jobs: jobs.commit(handle, access))

    def release(self, handle: JobHandle) -> None:
        """Remove the run's credentials from the shared folder, unless it lives; the rest stays for people to look into."""

        async def forget(jobs: Jobs) -> None:
            became = await jobs.became(await jobs.known(handle.job_id))
            if became is not None and became.found is not Found.RUNNING:
                await jobs.forget(handle)

        self._do(forget)

    def remove(self, handle: JobHandle) -> None:
        """Delete the job's folder."""

        async def remove(jobs: Jobs) -> None:
            known = await jobs.known(handle.job_id)
            became = await jobs.became(known)
            if became is not None and became.found is Found.RUNNING:
                raise TargetError(f"run {handle.job_id} is still running; cancel it first")
            await jobs.cluster.ask(RemoveJob(job_id=handle.job_id, number=known.next_number))

        self._do(remove)

    def check(self) -> tuple[Finding, ...]:
        """Look at the login node, the shared folder, Slurm's commands, partition and nodes."""
        return self._do(lambda jobs: check(jobs.cluster))

    # -- the background loop

    async def _cluster(self) -> Cluster:
        """Give the process's own; only in the background loop."""
        return background().once(("slurm", self.login, self.options), lambda: Cluster(self.login, self.options))

    def _do(self, work: Callable[[Jobs], Coroutine[Any, Any, T]]) -> T:
        async def there() -> T:
            return await work(Jobs(cluster=await self._cluster(), target=self.name))

        return background().run(there())
