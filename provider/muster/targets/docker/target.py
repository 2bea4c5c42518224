"""DockerTarget: one Docker engine; every node a container of its own, all of a job in a private network.

Offered: images (built or the user's own), limits on CPU and memory, GPUs by device request (each node its own share of the
target's devices), mounts of the engine's folders, any user id, words of ``docker run``. Not offered: nodes on several
machines (one engine is one machine), reservation of GPUs against other jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from muster.core.errors import RequestError
from muster.core.finding import Finding
from muster.core.handle import JobHandle
from muster.core.plan import EnvironmentRef, JobPlan
from muster.core.store_access import StoreAccess
from muster.targets.claim import AttemptStatus
from muster.targets.contract import BuiltImage, Log, Session, Submission
from muster.targets.docker import agent_volume as docker_agent
from muster.targets.docker import image as docker_image
from muster.targets.docker import run_arguments as docker_arguments
from muster.targets.docker.account import account_of
from muster.targets.docker.check import check
from muster.targets.docker.engine import Engine
from muster.targets.docker.errors import explained
from muster.targets.docker.feed import DockerFeed
from muster.targets.docker.image import BUILT_PYTHON, Image, Images
from muster.targets.docker.launch import LaunchSettings
from muster.targets.docker.ledger import DockerLedger, DockerStanding, DockerTiming
from muster.targets.docker.options import OPTIONS
from muster.targets.lifecycle import Lifecycle
from muster.targets.options import parse_options
from muster.targets.watch.session import WatchSession

LOOPBACK = ("localhost", "127.", "[::1]", "::1")
SCRATCH = {"muster.scratch": "yes"}


@dataclass(frozen=True, kw_only=True)
class DockerTarget(Lifecycle[DockerStanding]):
    """One engine. ``networks`` are joined by every node besides the job's own; ``gpus`` are the devices that jobs may use."""

    engine: Engine
    name: str = "docker"
    images: Images = field(default_factory=Images)
    networks: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    timing: DockerTiming = field(default_factory=DockerTiming)

    @classmethod
    def from_fields(cls, name: str, fields: Mapping[str, Any]) -> DockerTarget:
        """Return the target that plain fields describe.

        :raises RequestError: a value is not of its option's kind.
        """
        values = parse_options(OPTIONS, fields)
        tls = {key.removeprefix("tls_"): value for key, value in values.items() if key.startswith("tls_")}
        return cls(
            engine=Engine.of(values.get("url", ""), **tls),
            name=name,
            images=Images(
                base=values.get("base_image", ""),
                gpu_base=values.get("gpu_base_image", ""),
                repository=values.get("image_repository", ""),
                login=values.get("registry_login", {}),
            ),
            networks=values.get("networks", ()),
            gpus=values.get("gpus", ()),
        )

    # -- contract

    def prepare(self, plan: JobPlan, log: Log) -> None:
        """Find, pull or build the environment's image, and put the agent on the engine."""
        docker_arguments.parse(plan.container.arguments)
        self._shares(plan)
        client, engine_url = self.engine.client, self.engine.url
        image = self.images.ensure(client, plan.environment, engine_url, log)
        docker_agent.ensure_volume(client, image, docker_image.python_of(plan.environment), engine_url, log)

    def build_image(self, environment: EnvironmentRef, log: Log) -> BuiltImage:
        """Build the image of an environment, or find it on the engine."""
        image = self.images.ensure(self.engine.client, environment, self.engine.url, log)
        return BuiltImage(name=image.name, id=image.id, location=self.engine.url)

    def submit(self, submission: Submission) -> JobHandle:
        """Create the job, or return its running attempt; see :class:`muster.targets.contract.ComputeTarget`."""
        _refuse_loopback(submission.access)
        return super().submit(submission)

    def session(self) -> Session:
        """Open a session: one client, a stream for every node that is watched."""
        return WatchSession(lambda: DockerFeed(self.engine, self.timing), self.timing)

    def commit(self, handle: JobHandle, access: StoreAccess) -> JobHandle:
        """Start agents that store what a completed run could not."""
        _refuse_loopback(access)
        return super().commit(handle, access)

    def release(self, handle: JobHandle) -> None:
        """Remove the containers and networks of the run, unless it lives or its outputs could not be stored yet."""
        ledger = self.ledger
        jobs = ledger.jobs
        attempts = [attempt for attempt in jobs.attempts(handle.job_id) if attempt.id <= handle.id]
        if attempts and ledger.status(attempts[0])[0] in (AttemptStatus.RUNNING, AttemptStatus.UNCOMMITTED):
            return
        jobs.remove(attempts)
        jobs.remove_networks(handle.job_id, last=handle.id)

    def check(self) -> tuple[Finding, ...]:
        """Check engine, images, networks and GPUs."""
        return check(self.engine, self.images, self.networks, self.gpus)

    # -- launching

    @property
    def ledger(self) -> DockerLedger:
        """Return the jobs of the engine."""
        return DockerLedger(engine=self.engine, target=self.name, settings=self._settings, timing=self.timing)

    def _settings(self, plan: JobPlan) -> LaunchSettings:
        client, engine_url, ref = self.engine.client, self.engine.url, plan.environment
        arguments = docker_arguments.parse(plan.container.arguments)
        image = self._image(ref)
        python = docker_image.python_of(ref)
        agent = docker_agent.find_volume(client, docker_agent.volume_name(image.id, python), engine_url)
        with explained(f"looking up the user of image {image.name}", engine_url):
            account = account_of(client, image.id, arguments["User"] or image.user, SCRATCH)
        return LaunchSettings(
            image=image,
            python=python,
            agent=agent or docker_agent.ensure_volume(client, image, python, engine_url, lambda line: None),
            account=account,
            arguments=arguments,
            interpreter=ref.interpreter or (BUILT_PYTHON if docker_image.is_built(ref) else ""),
            networks=self.networks,
            gpus=self._shares(plan),
        )

    def _image(self, ref: EnvironmentRef) -> Image:
        found = docker_image.find_image(self.engine.client, self.images.name_of(ref), self.engine.url)
        return found or self.images.ensure(self.engine.client, ref, self.engine.url, lambda line: None)

    def _shares(self, plan: JobPlan) -> tuple[tuple[str, ...], ...]:
        """Return every node its own devices, in order."""
        count, nodes = plan.needs.gpus, len(plan.nodes)
        if self.gpus and count * nodes > len(self.gpus):
            raise RequestError(
                f"{nodes} nodes with {count} GPUs each need {nodes * count} devices, but target {self.name!r} may use "
                f"{','.join(self.gpus)}; ask for fewer, or extend its gpus"
            )
        devices = self.gpus or tuple(str(index) for index in range(count * nodes))
        return tuple(devices[node * count : (node + 1) * count] for node in range(nodes)) if count else ()


def _refuse_loopback(access: StoreAccess) -> None:
    host = urlsplit(access.endpoint_url).hostname or ""
    if host.startswith(LOOPBACK):
        raise RequestError(
            f"the store's endpoint {access.endpoint_url} is on loopback, which in a container is the container itself; give an "
            "address that containers reach"
        )
