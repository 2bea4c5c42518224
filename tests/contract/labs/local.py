"""LocalLab: this machine as the contract suite sees it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from contract.labs import faults
from contract.suite.target_lab import TargetLab
from lab import Lab
from muster.core.handle import JobHandle
from muster.core.plan import JobPlan
from muster.node import processes
from muster.node.host import liveness


@dataclass
class LocalLab(TargetLab[Lab]):
    """A target in a folder of its own."""

    _disks: list[Path] = field(default_factory=list)
    _patch: pytest.MonkeyPatch = field(default_factory=pytest.MonkeyPatch)

    def launches(self, handle: JobHandle) -> int:
        return len(list((self.jobs.root / "jobs" / handle.job_id).glob("g*-a*/node-0/guardian.json")))

    def left(self, handle: JobHandle) -> list[str]:
        return [f"process {pid}" for pid in self.jobs.living(handle)]

    def short_of_memory(self, plan: JobPlan, limit: int) -> JobPlan:
        return faults.short_of_memory(plan, limit)

    def small_disk(self, plan: JobPlan, size: int) -> JobPlan:
        faults.small_disk(self.jobs.root, size)
        self._disks.append(self.jobs.root)
        return plan

    def skew_clock(self, plan: JobPlan, node: int, seconds: int) -> JobPlan:
        """Start everything that runs for the node as a Python with another clock."""
        when = f'case "$last" in */node-{node}) true ;; *) false ;; esac'
        program = self.folder / "skewed-python"
        faults.skewed_python(program, sys.executable, seconds, faults.libfaketime(), when=when)
        self._patch.setattr(sys, "executable", str(program))
        return plan

    def lose_node(self, handle: JobHandle, node: int) -> None:
        """Kill the guardian and the agent at once; on one machine a node is no more than its processes."""
        pids = liveness.pids(str(self.jobs.paths(handle, node).root))
        assert len(pids) == 2, pids
        processes.send_signal(pids, signal.SIGKILL)

    def let_go(self, handle: JobHandle) -> None:
        self.jobs.let_go(handle)

    def close(self) -> None:
        self._patch.undo()
        try:
            super().close()
        finally:
            for disk in self._disks:
                faults.remove_disk(disk)


@contextmanager
def open_lab(request: pytest.FixtureRequest, folder: Path) -> Iterator[LocalLab]:
    """Yield the lab for one test."""
    lab = LocalLab(jobs=Lab(root=folder / "machine", store=request.getfixturevalue("store")), folder=folder)
    try:
        yield lab
    finally:
        lab.close()
