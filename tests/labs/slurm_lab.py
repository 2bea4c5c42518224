"""SlurmLab: jobs of a few lines on a real Slurm, with everything they leave in its queue and folder open to a test's eyes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from lab import FolderLab
from muster.core.event import STATE, Event
from muster.core.handle import JobHandle
from muster.targets.slurm.target import SlurmTarget
from slurm_cluster import SlurmCluster
from store_server import wait_until


@dataclass(kw_only=True)
class SlurmLab(FolderLab):
    """A Slurm target whose shared folder is the test's own. ``fields`` of the connection are the test's to change."""

    cluster: SlurmCluster
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> SlurmTarget:
        path = f'export PATH="{self.cluster.tools}:$PATH"'
        defaults = {"root": str(self.root), "python": sys.executable, "poll_interval": 2, "prologue": path}
        return SlurmTarget.from_fields("slurm", {**defaults, **self.fields})

    def numbers(self, handle: JobHandle, *options: str) -> list[str]:
        """Return the run's jobs that Slurm still has, or as its options ask for."""
        return self.cluster.run("squeue", "--noheader", f"--name={handle.job_id}", "-o", "%A", *options).split()

    def number(self, handle: JobHandle) -> str:
        """Return the run's job in Slurm, if it ended a moment ago too."""
        return self.numbers(handle, "--states=all")[0]

    def close(self) -> None:
        for handle in self.handles:
            for number in self.numbers(handle):
                self.cluster.run("scancel", number)
        super().close()
        wait_until(lambda: not self.cluster.jobs(), every=0.2, what="the queue is empty")


def queued(events: list[Event]) -> list[str]:
    """Return what the run waited for, as it was shown."""
    return [e.data.get("reason", "") for e in events if e.kind == STATE and e.data["state"] == "Queued"]


def states(events: list[Event]) -> list[str]:
    """Return the states that were shown."""
    return [e.data["state"] for e in events if e.kind == STATE]
