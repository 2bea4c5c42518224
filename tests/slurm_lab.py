"""SlurmLab: jobs of a few lines on a real Slurm, with everything they leave in its queue and folder open to a test's eyes."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import plan_of
from muster.core.access import StoreAccess
from muster.core.event import END, NOTE, STATE, Cursor, Event
from muster.core.handle import JobHandle
from muster.core.paths import JobPaths, NodePaths
from muster.core.plan import JobPlan
from muster.node import processes
from muster.runner import Outcome
from muster.store.run_store import RunStore
from muster.targets.contract import Submission
from muster.targets.slurm.target import SlurmTarget
from slurm_cluster import SlurmCluster
from store_server import Store, wait_until

_numbers = itertools.count()


@dataclass
class SlurmLab:
    """A Slurm target whose shared folder is the test's own. ``fields`` of the connection are the test's to change."""

    root: Path
    store: Store
    cluster: SlurmCluster
    fields: dict[str, Any] = field(default_factory=dict)
    handles: list[JobHandle] = field(default_factory=list)

    @property
    def target(self) -> SlurmTarget:
        path = f'export PATH="{self.cluster.tools}:$PATH"'
        defaults = {"root": str(self.root), "python": sys.executable, "poll_interval": 2, "prologue": path}
        return SlurmTarget.from_fields("slurm", {**defaults, **self.fields})

    def submission(
        self,
        plan: JobPlan,
        job_id: str = "",
        generation: int = 1,
        secrets: dict[str, str] | None = None,
        access: StoreAccess | None = None,
    ) -> Submission:
        """Give what is submitted, by a new job id unless one is given."""
        return Submission(
            job_id=job_id or f"lab-{os.getpid()}-{next(_numbers)}",
            generation=generation,
            plan=plan,
            archive=None,
            access=access or self.store.access,
            secrets=secrets or {},
            requested=time.time(),
        )

    def submit(self, plan: JobPlan, job_id: str = "", **options: Any) -> JobHandle:
        """Prepare the target and submit a plan."""
        target = self.target
        target.prepare(plan, lambda line: None)
        handle = target.submit(self.submission(plan, job_id, **options))
        self.handles.append(handle)
        return handle

    def run(self, code: str, **options: Any) -> tuple[Outcome, list[Event]]:
        """Submit code and wait for its end."""
        return self.wait(self.submit(plan_of(code, self.store.uri, **options)))

    def wait(self, handle: JobHandle, limit: float = 120.0) -> tuple[Outcome, list[Event]]:
        """Wait for a run's end; gives the outcome and all events."""
        events = asyncio.run(asyncio.wait_for(self._events(handle), limit))
        assert [event.kind for event in events].count(END) == 1
        return Outcome.from_event(handle, events[-1]), events

    async def _events(self, handle: JobHandle) -> list[Event]:
        return [event async for _, _, event in self.target.session().watch({handle: Cursor()})]

    def paths(self, handle: JobHandle, node: int = 0, attempt: int = 0) -> NodePaths:
        """Give a node's files."""
        paths = JobPaths(root=self.root, job_id=handle.job_id)
        return paths.node(handle.generation, attempt or handle.attempt, node)

    def number(self, handle: JobHandle) -> str:
        """Give the run's job in Slurm."""
        found = self.cluster.run("squeue", "--noheader", "--states=all", f"--name={handle.job_id}", "-o", "%A").split()
        return found[0]

    def living(self, handle: JobHandle, attempt: int = 0) -> list[int]:
        """Give every process of the run that lives, wherever it hid: found by its environment."""
        return processes.marked(f"MUSTER_JOB={handle.job_id}/g{handle.generation}/a{attempt or handle.attempt}")

    def wait_for_line(self, handle: JobHandle, text: str, node: int = 0, attempt: int = 0, limit: float = 60.0) -> None:
        """Wait until a node's log has a text."""
        log = self.paths(handle, node, attempt).events
        wait_until(lambda: log.exists() and text in log.read_text(), limit, 0.05, f"{text!r} in the log of node {node}")

    def record(self, handle: JobHandle) -> dict[str, Any]:
        """Give the run's record in the store."""
        return RunStore(self.store.uri, self.store.access).record(handle.job_id, handle.generation)

    def close(self) -> None:
        """End whatever a failed test left."""
        for handle in self.handles:
            for number in self.cluster.run("squeue", "--noheader", f"--name={handle.job_id}", "-o", "%A").split():
                self.cluster.run("scancel", number)
            processes.send(self.living(handle), 9)
        wait_until(lambda: not self.cluster.jobs(), 60.0, 0.2, "the queue is empty")


def queued(events: list[Event]) -> list[str]:
    """Give what the run waited for, as it was shown."""
    return [e.data.get("reason", "") for e in events if e.kind == STATE and e.data["state"] == "Queued"]


def states(events: list[Event]) -> list[str]:
    """Give the states that were shown."""
    return [e.data["state"] for e in events if e.kind == STATE]


def told(events: list[Event]) -> str:
    """Give all notes as one text."""
    return "\n".join(e.data["text"] for e in events if e.kind == NOTE)
