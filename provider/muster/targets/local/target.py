"""LocalTarget: this machine; every node an agent with its own working folder and loopback address.

Offered: GPUs (each node its own share of the devices), CPU and memory checks, environments as cached venvs, user-managed
interpreters. Not offered: limits on CPU and memory, other users, containers; the nodes share one file system and one kernel.
Of the contract suite's cases:

| case | not offered because |
| --- | --- |
| lost connection | there is none: whoever submits or watches reads the nodes' files on the machine itself |
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muster.core.errors import UnknownRun
from muster.core.finding import Finding
from muster.core.handle import JobHandle
from muster.core.paths import JobPaths, NodePaths
from muster.core.plan import JobPlan
from muster.node.assignment import Assignment
from muster.targets import bare_metal, checks
from muster.targets.contract import Log, Session
from muster.targets.lifecycle import Lifecycle, Standing
from muster.targets.local.feed import LocalFeed
from muster.targets.local.ledger import LocalLedger, LocalTiming
from muster.targets.options import default_root
from muster.targets.watch.session import WatchSession


@dataclass(frozen=True, kw_only=True)
class LocalTarget(Lifecycle[Standing]):
    """This machine; ``root`` keeps jobs, environments, agents and snapshots."""

    root: Path
    name: str = "local"
    timing: LocalTiming = field(default_factory=LocalTiming)

    @classmethod
    def from_fields(cls, name: str, fields: Mapping[str, Any]) -> LocalTarget:
        """Return the target that plain fields describe."""
        return cls(root=Path(fields.get("root") or default_root()).expanduser().resolve(), name=name)

    # -- contract

    def prepare(self, plan: JobPlan, log: Log) -> None:
        """Build the environment's venv, or find it by its digest.

        :raises RequestError: the plan wants something that only containers have.
        """
        bare_metal.check_plan(plan, self.name, log)
        if plan.environment.digest:
            from muster.packaging.environment import venv

            venv.ensure_venv(plan.environment, self.root, log)

    def session(self) -> Session:
        """Open a session; nothing is connected to, on this machine."""
        return WatchSession(lambda: LocalFeed(self._nodes_of, self.ledger.restart_node, self.timing), self.timing)

    def release(self, handle: JobHandle) -> None:
        """Keep the job's folders, for people to look into; nothing else is held."""

    def check(self) -> tuple[Finding, ...]:
        """Check root folder, disk, Python, and the devices that there are."""
        remedy = "make it writable, or set another root"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return (
                Finding(what="root folder", fine=False, text=f"{self.root} can't be made: {error.strerror}", remedy=remedy),
            )
        writable = os.access(self.root, os.W_OK)
        return (
            Finding.of("root folder", writable, f"{self.root} is {'writable' if writable else 'not writable'}", remedy),
            checks.disk("disk", shutil.disk_usage(self.root).free, str(self.root), "make room there, or set another root"),
            checks.python("python", f"Python {platform.python_version()}", sys.executable),
            Finding(what="cpus", fine=True, text=f"{len(os.sched_getaffinity(0))} on {os.uname().nodename}"),
            checks.gpus("gpus", _devices(), 0),
        )

    @property
    def ledger(self) -> LocalLedger:
        """Return the jobs below the root folder."""
        return LocalLedger(root=self.root, target=self.name, timing=self.timing)

    def _nodes_of(self, handle: JobHandle) -> list[NodePaths]:
        paths = JobPaths(root=self.root, job_id=handle.job_id)
        first = paths.node(handle.generation, handle.attempt, 0).assignment
        if not first.exists():
            raise UnknownRun(f"no attempt {handle.attempt} of run {handle.job_id!r} on target {self.name} (root {self.root})")
        count = len(Assignment.read(first).plan.nodes)
        return [paths.node(handle.generation, handle.attempt, node) for node in range(count)]


def _devices() -> str:
    try:
        return subprocess.run(checks.NVIDIA_SMI, capture_output=True, text=True, timeout=checks.LIMIT, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
