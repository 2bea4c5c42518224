"""JobLab: jobs of a few lines on a real target, with everything they leave there open to a test's eyes; Lab: the local one."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from muster.core.event import END, Cursor, Event
from muster.core.handle import JobHandle
from muster.core.paths import JobPaths, NodePaths
from muster.core.placeholder import Here, HostOf, PortOf
from muster.core.plan import EnvironmentRef, JobPlan, Limits, Needs, NodePlan, PortRequest, RankPlan
from muster.node import processes
from muster.node.assignment import Assignment
from muster.runner import Outcome
from muster.targets.contract import ComputeTarget, Session, Submission
from muster.targets.local.target import LocalTarget
from store_server import Store, wait_until

NOTHING = Needs()
LIMIT = 240.0  # seconds for a whole run; far more than one takes, so that a busy machine fails no test
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


def new_job_id() -> str:
    """Return a job id of this test process's own."""
    return f"lab-{os.getpid()}-{next(_numbers)}"


def counting(until: int, count: int) -> str:
    """Return code that prints ``count`` lines, the rest of them only once there is a file ``go`` in its work folder."""
    return (
        "import pathlib, time\n"
        f"for i in range({count}):\n"
        f"    while i >= {until} and not pathlib.Path('go').exists(): time.sleep(0.05)\n"
        "    print('line', i, flush=True)\n"
        "    time.sleep(0.02)"
    )


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
    """Return a plan of ``nodes`` × ``ranks`` processes that all run ``code``, with a rendezvous port on node 0."""

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
                ports=(PortRequest(name="master", near=6105),) if node == 0 else (),
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


def assignment_of(plan: JobPlan, **others: Any) -> Assignment:
    """Return what node 0 is told of a plan's first attempt; ``others``: fields that are to be otherwise."""
    fields: dict[str, Any] = {
        "job_id": "job",
        "generation": 1,
        "attempt": 1,
        "node": 0,
        "target": "lab",
        "store": plan.store,
        "plan": plan,
        "plan_digest": plan.digest(),
        "addresses": ("",) * len(plan.nodes),
        "deadline": 0.0,
        "requested": 0.0,
        "submitted": 1.0,
        "interpreter": "",
        "muster_python": "",
    }
    return Assignment(**{**fields, **others})


@dataclass(kw_only=True)
class JobLab(ABC):
    """A target and a store. ``handles``: what was submitted. ``timing``: what a watch waits for, unlike the target's own."""

    store: Store
    handles: list[JobHandle] = field(default_factory=list)
    timing: dict[str, Any] = field(default_factory=dict)

    @property
    @abstractmethod
    def target(self) -> ComputeTarget:
        """The target as a new process would open it."""

    @abstractmethod
    def log(self, handle: JobHandle, node: int = 0) -> str:
        """Return a node's event log, "" if there is none."""

    def session(self) -> Session:
        """Open a session of the target, with the lab's timing."""
        target: Any = self.target
        return replace(target, timing=replace(target.timing, **self.timing)).session()  # type: ignore[no-any-return]

    def submission(self, plan: JobPlan, job_id: str = "", generation: int = 1, **others: Any) -> Submission:
        """Return what is submitted, by a new job id unless one is given."""
        given = {"archive": None, "access": self.store.access, "requested": time.time(), **others}
        return Submission(job_id=job_id or new_job_id(), generation=generation, plan=plan, **given)

    def submit(self, plan: JobPlan, job_id: str = "", **others: Any) -> JobHandle:
        """Prepare the target and submit a plan."""
        target = self.target
        target.prepare(plan, lambda line: None)
        handle = target.submit(self.submission(plan, job_id, **others))
        self.handles.append(handle)
        return handle

    def run(self, code: str, **options: Any) -> tuple[Outcome, list[Event]]:
        """Submit code and wait for its end."""
        return self.wait(self.submit(plan_of(code, self.store.uri, **options)))

    def wait(self, handle: JobHandle, limit: float = LIMIT) -> tuple[Outcome, list[Event]]:
        """Wait for a run's end, watching from its beginning; gives the outcome and all events."""
        events, _ = self.watch(handle, limit=limit)
        assert [event.kind for event in events].count(END) == 1
        assert events[-1].kind == END
        return Outcome.from_event(handle, events[-1]), events

    def watch(
        self,
        handle: JobHandle,
        cursor: Cursor | None = None,
        until: Callable[[list[Event]], object] = lambda events: False,
        limit: float = LIMIT,
    ) -> tuple[list[Event], Cursor]:
        """Watch a run from a cursor on, to its end or until enough was seen; gives the events, and the cursor after them."""
        seen: list[Event] = []

        async def watched() -> Cursor:
            position = cursor or Cursor()
            async with aclosing(self.session().watch({handle: position})) as watching:  # type: ignore[type-var]
                async for _, after, event in watching:
                    seen.append(event)
                    position = after
                    if until(seen):
                        break
            return position

        try:
            return seen, asyncio.run(asyncio.wait_for(watched(), limit))
        except TimeoutError:
            last = [f"{event.kind} of node {event.node}: {event.data}"[:200] for event in seen[-5:]]
            raise AssertionError(f"no end within {limit:g} s; seen last: {last}") from None

    async def events(self, handle: JobHandle, cursor: Cursor | None = None) -> list[Event]:
        """Return all events of a run that is watched to its end, beside others."""
        return [event async for _, _, event in self.session().watch({handle: cursor or Cursor()})]

    def wait_for_line(self, handle: JobHandle, text: str = '"k": "line"', node: int = 0, limit: float = 120.0) -> None:
        """Wait until a node's log has a text, if nothing else is given any line of a rank."""
        wait_until(lambda: text in self.log(handle, node), limit, 0.05, f"{text!r} in the log of node {node}")

    def living(self, handle: JobHandle) -> list[int]:
        """Return every process of the run that lives, wherever it hid: found by its environment."""
        return processes.marked(f"MUSTER_JOB={handle.id.marker}")

    def record(self, handle: JobHandle) -> dict[str, Any]:
        """Return the run's record in the store."""
        return self.store.open().record(handle.job_id, handle.generation)

    def close(self) -> None:
        """End whatever a failed test left."""
        for handle in self.handles:
            processes.send_signal(self.living(handle), signal.SIGKILL)


@dataclass(kw_only=True)
class FolderLab(JobLab):
    """A lab whose target keeps all nodes in one folder of this machine."""

    root: Path

    def paths(self, handle: JobHandle, node: int = 0) -> NodePaths:
        """Return a node's files."""
        return JobPaths(root=self.root, job_id=handle.job_id).node(handle.generation, handle.attempt, node)

    def let_go(self, handle: JobHandle) -> None:
        """Make the file ``go`` in the work folder of every node, for ranks that wait for it."""
        for folder in JobPaths(root=self.root, job_id=handle.job_id).attempt(handle.generation, handle.attempt).glob("node-*"):
            (NodePaths(root=folder).work / "go").touch()

    def log(self, handle: JobHandle, node: int = 0) -> str:
        log = self.paths(handle, node).events
        return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""


@dataclass(kw_only=True)
class Lab(FolderLab):
    """A local target in a folder of its own."""

    @property
    def target(self) -> LocalTarget:
        return LocalTarget(root=self.root)

    def wait_for_event(self, handle: JobHandle, kind: str, count: int = 1, limit: float = 120.0) -> None:
        """Wait until the nodes' logs together have ``count`` events of a kind."""
        wait_until(lambda: self._count(handle, kind) >= count, limit, 0.01, f"{count} events {kind!r}")

    def _count(self, handle: JobHandle, kind: str) -> int:
        folder = JobPaths(root=self.root, job_id=handle.job_id).attempt(handle.generation, handle.attempt)
        return sum(log.read_bytes().count(f'"k": "{kind}"'.encode()) for log in folder.glob("node-*/events.jsonl"))

    def close(self) -> None:
        for handle in self.handles:
            self.target.cancel(handle, handle.generation, "end of the test")
        super().close()


def lines(events: list[Event], rank: int | None = None) -> list[str]:
    """Return what ranks printed, of one rank or of all."""
    return [e.data["text"] for e in events if e.kind == "line" and rank in (None, e.data["rank"])]


def notes(events: list[Event]) -> str:
    """Return all notes as one text."""
    return "\n".join(e.data["text"] for e in events if e.kind == "note")
