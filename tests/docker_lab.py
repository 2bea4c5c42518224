"""DockerLab: jobs of a few lines in containers of a real engine, with everything they leave there open to a test's eyes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lab import plan_of
from muster.core.access import StoreAccess
from muster.core.errors import MusterError
from muster.core.event import END, Cursor, Event
from muster.core.handle import JobHandle
from muster.core.plan import JobPlan
from muster.runner import Outcome
from muster.store.run_store import RunStore
from muster.targets.contract import Submission
from muster.targets.docker.target import DockerTarget

if TYPE_CHECKING:
    from docker import DockerClient

    from engine import DockerStore

JOB = "muster.job"
_numbers = itertools.count()


def new_job_id() -> str:
    """Give a job id of this test process's own."""
    return f"lab-{os.getpid()}-{next(_numbers)}"


@dataclass
class DockerLab:
    """A Docker target on an engine, whose nodes reach the store by its network."""

    engine: DockerClient
    store: DockerStore
    base_image: str
    url: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    jobs: set[str] = field(default_factory=set)

    @property
    def target(self) -> DockerTarget:
        networks = [self.store.network] if self.store.network else []
        return DockerTarget.from_fields(
            "docker", {"base_image": self.base_image, "networks": networks, "url": self.url, **self.fields}
        )

    def submission(
        self,
        plan: JobPlan,
        job_id: str = "",
        generation: int = 1,
        secrets: dict[str, str] | None = None,
        access: StoreAccess | None = None,
    ) -> Submission:
        """Give what is submitted, by a new job id unless one is given."""
        job_id = job_id or new_job_id()
        self.jobs.add(job_id)
        return Submission(
            job_id=job_id,
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
        return target.submit(self.submission(plan, job_id, **options))

    def run(self, code: str, **options: Any) -> tuple[Outcome, list[Event]]:
        """Submit code and wait for its end."""
        return self.wait(self.submit(plan_of(code, self.store.uri, **options)))

    def wait(self, handle: JobHandle, limit: float = 120.0) -> tuple[Outcome, list[Event]]:
        """Wait for a run's end; gives the outcome and all events."""
        events = asyncio.run(asyncio.wait_for(self.events(handle), limit))
        assert [event.kind for event in events].count(END) == 1
        return Outcome.from_event(handle, events[-1]), events

    async def events(self, handle: JobHandle) -> list[Event]:
        """Give all events of a run that is watched to its end."""
        return [event async for _, _, event in self.target.session().watch({handle: Cursor()})]

    def containers(self, job_id: str) -> list[Any]:
        """Give every container of a job, by node."""
        found = self.engine.containers.list(all=True, filters={"label": f"{JOB}={job_id}"}, ignore_removed=True)
        return sorted(found, key=lambda container: container.labels["muster.node"])

    def container(self, handle: JobHandle, node: int = 0) -> Any:
        """Give a node's container of the handle's attempt."""
        for container in self.containers(handle.job_id):
            labels = container.labels
            if (labels["muster.attempt"], labels["muster.node"]) == (str(handle.attempt), str(node)):
                return container
        raise AssertionError(f"no container of node {node}")

    def left(self, job_id: str) -> list[str]:
        """Give the names of everything that a job has on the engine: containers, networks, volumes."""
        filters = {"label": f"{JOB}={job_id}"}
        containers = [c.name for c in self.containers(job_id)]
        networks = [n.name for n in self.engine.networks.list(filters=filters)]
        return containers + networks + [v.name for v in self.engine.volumes.list(filters=filters)]

    def wait_for_line(self, handle: JobHandle, text: str = "ready", node: int = 0, limit: float = 60.0) -> None:
        """Wait until a node's log has a line."""
        container, log = self.container(handle, node), b""
        give_up = time.monotonic() + limit
        while text.encode() not in log:
            assert time.monotonic() < give_up, f"no {text!r} in the log of node {node} within {limit} s: {log.decode()[-3000:]}"
            time.sleep(0.1)
            log = container.exec_run(["cat", "/muster/node/events.jsonl"])[1]

    def record(self, handle: JobHandle) -> dict[str, Any]:
        """Give the run's record in the store."""
        return RunStore(self.store.uri, self.store.access).record(handle.job_id, handle.generation)

    def close(self) -> None:
        """End whatever a failed test left."""
        for job_id in self.jobs:
            for container in self.containers(job_id):
                container.remove(force=True, v=True)
            for network in self.engine.networks.list(filters={"label": f"{JOB}={job_id}"}):
                with contextlib.suppress(MusterError):
                    network.remove()
