"""Lab: jobs of a few lines on the real local target, with everything they leave behind open to a test's eyes."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from muster.core.access import StoreAccess
from muster.core.event import END, Cursor, Event
from muster.core.handle import JobHandle
from muster.core.paths import JobPaths, NodePaths
from muster.core.plan import EnvironmentRef, JobPlan, Limits, Needs, NodePlan, PortWish, RankPlan
from muster.core.token import Here, HostOf, PortOf
from muster.node import processes
from muster.runner import Outcome
from muster.store.run_store import RunStore
from muster.targets.contract import Submission
from muster.targets.local.target import LocalTarget
from store_server import Store

NOTHING = Needs()
# what values of users can look like
HOSTILE = (
    "",
    " ",
    "a b",
    'say "hi"',
    "it's",
    "two\nlines",
    "$HOME",
    "${HOME}",
    "$",
    "`id`",
    "späße 模型 🚀",
    "-x",
    "*",
    "\\n",
)
_numbers = itertools.count()


def plan_of(  # noqa: PLR0917
    code: str,
    store: str,
    nodes: int = 2,
    ranks: int = 1,
    arguments: tuple[str, ...] = (),
    needs: Needs = NOTHING,
    env: tuple[tuple[str, str], ...] = (),
    **limits: float,
) -> JobPlan:
    """Give a plan of ``nodes`` × ``ranks`` processes that all run ``code``, with a rendezvous port on node 0."""

    def rank(node: int, local: int) -> RankPlan:
        argv = ((Here(here="interpreter"),), "-c", code, *arguments)
        rendezvous = (("MASTER_ADDR", (HostOf(host_of=0),)), ("MASTER_PORT", (PortOf(port_of=0, port="master"),)))
        return RankPlan(rank=node * ranks + local, local_rank=local, argv=argv, env=rendezvous)

    return JobPlan(
        name="lab",
        framework="any",
        nodes=tuple(
            NodePlan(
                node=node,
                ranks=tuple(rank(node, local) for local in range(ranks)),
                ports=(PortWish(name="master", near=6105),) if node == 0 else (),
            )
            for node in range(nodes)
        ),
        snapshot="",
        environment=EnvironmentRef(),
        store=store,
        env=env,
        needs=needs,
        limits=Limits(**limits),
    )


@dataclass
class Lab:
    """A local target in a folder of its own, and a store."""

    root: Path
    store: Store
    handles: list[JobHandle] = field(default_factory=list)

    @property
    def target(self) -> LocalTarget:
        return LocalTarget(root=self.root)

    def submit(
        self,
        plan: JobPlan,
        job_id: str = "",
        generation: int = 1,
        secrets: dict[str, str] | None = None,
        access: StoreAccess | None = None,
    ) -> JobHandle:
        """Submit a plan, by a new job id unless one is given."""
        submission = Submission(
            job_id=job_id or f"lab-{os.getpid()}-{next(_numbers)}",
            generation=generation,
            plan=plan,
            archive=None,
            access=access or self.store.access,
            secrets=secrets or {},
            requested=time.time(),
        )
        handle = self.target.submit(submission)
        self.handles.append(handle)
        return handle

    def run(self, code: str, **options: object) -> tuple[Outcome, list[Event]]:
        """Submit code and wait for its end."""
        return self.wait(self.submit(plan_of(code, self.store.uri, **options)))  # type: ignore[arg-type]

    def wait(self, handle: JobHandle, limit: float = 90.0) -> tuple[Outcome, list[Event]]:
        """Wait for a run's end; gives the outcome and all events."""
        events = asyncio.run(asyncio.wait_for(self._events(handle), limit))
        assert [event.kind for event in events].count(END) == 1
        return Outcome.from_event(handle, events[-1]), events

    async def _events(self, handle: JobHandle) -> list[Event]:
        return [event async for _, _, event in self.target.session().watch({handle: Cursor()})]

    def paths(self, handle: JobHandle, node: int = 0) -> NodePaths:
        """Give a node's files."""
        return JobPaths(root=self.root, job_id=handle.job_id).node(handle.generation, handle.attempt, node)

    def living(self, handle: JobHandle) -> list[int]:
        """Give every process of the run that lives, wherever it hid: found by its environment."""
        return processes.marked(f"MUSTER_JOB={handle.job_id}/g{handle.generation}/a{handle.attempt}")

    def wait_for_event(self, handle: JobHandle, kind: str, count: int = 1, limit: float = 30.0) -> None:
        """Wait until the nodes' logs together have ``count`` events of a kind."""
        give_up = time.monotonic() + limit
        while self._count(handle, kind) < count:
            assert time.monotonic() < give_up, f"no {count} events {kind!r} within {limit} s"
            time.sleep(0.01)

    def _count(self, handle: JobHandle, kind: str) -> int:
        folder = JobPaths(root=self.root, job_id=handle.job_id).attempt(handle.generation, handle.attempt)
        return sum(log.read_bytes().count(f'"k": "{kind}"'.encode()) for log in folder.glob("node-*/events.jsonl"))

    def record(self, handle: JobHandle) -> dict[str, object]:
        """Give the run's record in the store."""
        return RunStore(self.store.uri, self.store.access).record(handle.job_id, handle.generation)

    def close(self) -> None:
        """End whatever a failed test left running."""
        for handle in self.handles:
            self.target.cancel(handle, handle.generation, "end of the test")
            processes.send(self.living(handle), 9)


def lines(events: list[Event], rank: int | None = None) -> list[str]:
    """Give what ranks printed, of one rank or of all."""
    return [e.data["text"] for e in events if e.kind == "line" and rank in (None, e.data["rank"])]


def notes(events: list[Event]) -> str:
    """Give all notes as one text."""
    return "\n".join(e.data["text"] for e in events if e.kind == "note")
