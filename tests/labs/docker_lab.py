"""DockerLab: jobs of a few lines in containers of a real engine, with everything they leave there open to a test's eyes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lab import JobLab
from muster.core.errors import MusterError
from muster.core.handle import JobHandle
from muster.core.plan import JobPlan
from muster.targets.contract import Submission
from muster.targets.docker.target import DockerTarget

if TYPE_CHECKING:
    from docker import DockerClient

    from engine import DockerStore

JOB = "muster.job"


@dataclass(kw_only=True)
class DockerLab(JobLab):
    """A Docker target on an engine, whose nodes reach the store by its network. ``jobs``: the ids of all that was submitted."""

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

    def submission(self, plan: JobPlan, job_id: str = "", generation: int = 1, **others: Any) -> Submission:
        made = super().submission(plan, job_id, generation, **others)
        self.jobs.add(made.job_id)
        return made

    def log(self, handle: JobHandle, node: int = 0) -> str:
        said: bytes = self.container(handle, node).exec_run(["cat", "/muster/node/events.jsonl"])[1]
        return said.decode(errors="replace")

    def containers(self, job_id: str) -> list[Any]:
        """Return every container of a job, by node."""
        found = self.engine.containers.list(all=True, filters={"label": f"{JOB}={job_id}"}, ignore_removed=True)
        return sorted(found, key=lambda container: container.labels["muster.node"])

    def container(self, handle: JobHandle, node: int = 0) -> Any:
        """Return a node's container of the handle's attempt."""
        for container in self.containers(handle.job_id):
            labels = container.labels
            if (labels["muster.attempt"], labels["muster.node"]) == (str(handle.attempt), str(node)):
                return container
        raise AssertionError(f"no container of node {node}")

    def left(self, job_id: str) -> list[str]:
        """Return the names of everything that a job has on the engine: containers, networks, volumes."""
        filters = {"label": f"{JOB}={job_id}"}
        containers = [c.name for c in self.containers(job_id)]
        networks = [n.name for n in self.engine.networks.list(filters=filters)]
        return containers + networks + [v.name for v in self.engine.volumes.list(filters=filters)]

    def close(self) -> None:
        for job_id in self.jobs:
            for container in self.containers(job_id):
                container.remove(force=True, v=True)
            for network in self.engine.networks.list(filters={"label": f"{JOB}={job_id}"}):
                with contextlib.suppress(MusterError):
                    network.remove()
