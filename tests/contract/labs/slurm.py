"""ClusterLab: a Slurm cluster as the contract suite sees it, its login node reached over SSH by a wire that can be cut."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from contract.labs import faults
from contract.labs.login_node import LoginSshd
from contract.labs.proxy import Proxy
from contract.suite.target_lab import TargetLab
from muster.core.handle import JobHandle
from muster.core.plan import JobPlan
from slurm_cluster import SlurmCluster
from slurm_lab import SlurmLab
from store_server import wait_until

PYTHON = "/usr/bin/python3"
LEAVES = 60.0  # seconds in which Slurm lets go of the nodes of a job whose last process has left


@dataclass
class ClusterLab(TargetLab[SlurmLab]):
    """A target whose shared folder is the same for all tests: what is cached there is sent once."""

    proxy: Proxy = field(kw_only=True)
    start_time = 10.0
    _disks: list[Path] = field(default_factory=list)
    _lost: list[str] = field(default_factory=list)

    def launches(self, handle: JobHandle) -> int:
        return len(self.jobs.numbers(handle))

    def left(self, handle: JobHandle) -> list[str]:
        """Name processes, and jobs that Slurm still has on its nodes or in its queue a moment after their end."""
        left = [f"process {pid}" for pid in self.jobs.living(handle)]
        deadline = time.monotonic() + LEAVES
        while (jobs := self.jobs.numbers(handle)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [*left, *(f"Slurm's job {job}" for job in jobs)]

    def short_of_memory(self, plan: JobPlan, limit: int) -> JobPlan:
        return faults.short_of_memory(plan, limit)

    def small_disk(self, plan: JobPlan, size: int) -> JobPlan:
        """Use a shared folder that is small; all nodes write there, so the job has one."""
        disk = self.folder / "shared"
        faults.small_disk(disk, size)
        self._disks.append(disk)
        self.jobs.root = disk
        return plan

    def skew_clock(self, plan: JobPlan, node: int, seconds: int) -> JobPlan:
        program = self.folder / "skewed-python"
        # only the agent: libfaketime fails in some of the sleeps that the task before it may need (EINVAL of clock_nanosleep)
        when = f'case " $* " in *" agent "*"/node-{node} "*) true ;; *) false ;; esac'
        faults.skewed_python(program, PYTHON, seconds, faults.libfaketime(), when=when, name=program)
        self.jobs.fields["python"] = str(program)
        return plan

    def lose_node(self, handle: JobHandle, node: int) -> None:
        """Kill the node's daemon and all that it has started."""
        name = self.jobs.cluster.node_names()[node]
        self._lost.append(name)
        self.jobs.cluster.kill_node(name)

    def let_go(self, handle: JobHandle) -> None:
        self.jobs.let_go(handle)

    @contextmanager
    def connection_lost(self) -> Iterator[None]:
        self.proxy.cut()
        wait_until(lambda: self.proxy.refused, what="a new connection to the login node was tried")
        yield
        self.proxy.mend()

    def close(self) -> None:
        self.proxy.mend()
        try:
            for name in self._lost:
                self.jobs.cluster.revive_node(name)
            super().close()
        finally:
            for disk in self._disks:
                faults.remove_disk(disk)


@contextmanager
def open_lab(request: pytest.FixtureRequest, folder: Path) -> Iterator[ClusterLab]:
    """Yield the lab for one test."""
    cluster: SlurmCluster = request.getfixturevalue("slurm_cluster")
    sshd: LoginSshd = request.getfixturevalue("login_sshd")
    slurm = SlurmLab(root=sshd.folder / "shared", store=request.getfixturevalue("store"), cluster=cluster)
    # a lost node would else be replaced by a requeue, which waits for a node that nobody gives back
    slurm.fields.update(sshd.fields, python=PYTHON, poll_interval=1, requeue=False)
    lab = ClusterLab(jobs=slurm, folder=folder, proxy=sshd.wire)
    try:
        yield lab
    finally:
        lab.close()
