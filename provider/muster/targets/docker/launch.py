"""Launch: one attempt brought to life on an engine: network, containers, files, all at once; undone whole if any fails."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from muster.core.codec import canonical
from muster.core.errors import MusterError, TargetError
from muster.core.plan import JobPlan
from muster.node.assignment import Assignment
from muster.targets.claim import Claim
from muster.targets.contract import Submission
from muster.targets.docker import agent_volume as docker_agent
from muster.targets.docker import containers
from muster.targets.docker.account import Account
from muster.targets.docker.agent_volume import ENTRY, AgentVolume
from muster.targets.docker.containers import AttemptContainers, Jobs, each
from muster.targets.docker.engine import create_container
from muster.targets.docker.errors import explained
from muster.targets.docker.image import Image
from muster.targets.docker.node_files import ARCHIVE, NODE, Shared, node_files, shared_files

if TYPE_CHECKING:
    from docker import APIClient

BIG_STACK = {"Name": "stack", "Soft": 64 << 20, "Hard": 64 << 20}


class LostRace(Exception):
    """Another submit owns the job."""


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """Settings of a launch: image, its Python, the account, the networks to join, the devices to assign."""

    image: Image
    python: str
    agent: AgentVolume
    account: Account
    arguments: Mapping[str, Any]
    interpreter: str = ""
    networks: tuple[str, ...] = ()
    gpus: tuple[tuple[str, ...], ...] = ()  # of each node, () for none


@dataclass
class Launch:
    """One launch; ``before`` is the attempt whose files a commit takes over, None for an attempt that trains."""

    client: APIClient
    engine_url: str
    target: str
    claim: Claim
    submission: Submission
    settings: LaunchSettings
    before: AttemptContainers | None = None
    _containers: dict[int, str] = field(default_factory=dict)
    _network: Future[str] | None = None

    @property
    def _base(self) -> str:
        return containers.attempt_name(self.claim.id)

    def run(self) -> None:
        """Launch it.

        :raises LostRace: another submit was faster, or took this launch for dead; nothing is left of ours.
        :raises MusterError: it can't be launched; nothing is left of it.
        """
        try:
            self._run()
        except BaseException as error:
            swept = isinstance(error, MusterError) and self._leader_is_gone()
            self._undo()
            if swept:
                raise LostRace from error
            raise

    def _run(self) -> None:
        nodes = range(self.claim.nodes)
        network_name = f"{self._base}-{secrets.token_hex(3)}"
        with ThreadPoolExecutor(min(32, self.claim.nodes + 2)) as pool:
            self._network = pool.submit(self._make_network, network_name)
            leader = pool.submit(self._create, 0, network_name)
            shared = self._shared_files()  # makes the certificate, while the engine is at work
            leader.result()  # from here on the job is ours
            ready = [pool.submit(self._see_to_agent)]
            ready += [pool.submit(self._make_ready, node, network_name, shared) for node in nodes]
            self._network.result()
            for done in ready:
                done.result()
            shared.close()
            for started in [pool.submit(self._start, node) for node in nodes]:
                started.result()

    def _make_network(self, name: str) -> str:
        with explained("making the job's network", self.engine_url):
            made: dict[str, Any] = self.client.create_network(name, driver="bridge", labels=self._labels())
        return str(made["Id"])

    def _shared_files(self) -> Shared:
        from muster.packaging import certificate

        return shared_files(self.submission, certificate.make_certificate(), self.settings.account)

    def _create(self, node: int, network: str) -> None:
        import docker.errors

        name = f"{self._base}-n{node}" if node else containers.container_name(self.claim.job_id)
        config = self.config(node, network)
        with explained(f"creating node {node}", self.engine_url):
            try:
                self._containers[node] = create_container(self.client, config, name)
            except docker.errors.APIError as error:
                if error.status_code == 409:
                    raise LostRace from error
                raise

    def _make_ready(self, node: int, network: str, shared: Shared) -> None:
        if node not in self._containers:
            self._create(node, network)
        container = self._containers[node]
        files = node_files(shared, self._assignment(node), self.submission, self.settings.account)
        with explained(f"copying files to node {node}", self.engine_url):
            self.client.put_archive(container, "/", files)
            if self.before is not None:
                self._copy_outputs(container, node)
            for other in self.settings.networks:
                self.client.connect_container_to_network(container, other)

    def _see_to_agent(self) -> None:
        """Check the agent's volume, which node 0 has: it was found by its name alone."""
        settings = self.settings
        docker_agent.ensure_in(self.client, self._containers[0], settings.image, settings.python, self.engine_url)

    def _copy_outputs(self, container: str, node: int) -> None:
        """Copy what the last attempt's ranks left; the older containers stay until this attempt lives."""
        left = next((c for c in self.before.containers if c.node == node), None) if self.before else None
        if left is None:
            raise TargetError(
                f"run {self.claim.job_id} can't be committed: the container of node {node} is gone, and what it held"
            )
        for folder in ("work", "ranks"):
            stream, _ = self.client.get_archive(left.id, str(NODE / folder))
            self.client.put_archive(container, str(NODE), stream)

    def _start(self, node: int) -> None:
        with explained(f"starting node {node}", self.engine_url):
            self.client.start(self._containers[node])

    def _leader_is_gone(self) -> bool:
        """Return whether node 0 was created and is gone: a submit that waited too long has removed it."""
        import docker.errors

        if 0 not in self._containers:
            return False
        try:
            self.client.inspect_container(self._containers[0])
        except docker.errors.NotFound:
            return True
        except (docker.errors.DockerException, OSError):
            pass  # the engine is unreachable: that is the error to report
        return False

    def _undo(self) -> None:
        """Remove what was made, by its ids; what can't be removed is found by its labels later."""
        engine = Jobs(self.client, self.engine_url)
        with contextlib.suppress(MusterError, OSError), explained("undoing the launch", self.engine_url):
            each(engine.remove_container, self._containers.values())
            if self._network is not None:
                engine.remove_network(self._network.result())

    def config(self, node: int, network: str) -> dict[str, Any]:
        """Return a node's container as the engine's API wants it; nothing in it is a secret."""
        settings, claim = self.settings, self.claim
        gpus = settings.gpus[node] if settings.gpus else ()
        environment = {"MUSTER_JOB": claim.id.marker, **settings.account.environment}
        if not gpus:
            environment["NVIDIA_VISIBLE_DEVICES"] = "void"  # images that say "all" would show them under NVIDIA's runtime
        return {
            "Image": settings.image.id,
            "Entrypoint": [settings.python, "-I", "-S", ENTRY, "guardian", str(NODE)],
            "Hostname": containers.host_name(claim.job_id, node),
            "User": settings.arguments["User"] or settings.image.user,
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "Labels": self._labels(node),
            "WorkingDir": "/",
            "StopSignal": "SIGTERM",
            "StopTimeout": int(claim.grace) + 30,
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": _host_config(self.submission.plan, settings, gpus, network),
            "NetworkingConfig": {"EndpointsConfig": {network: {"Aliases": [alias(node)]}}},
        }

    def _labels(self, node: int | None = None) -> dict[str, str]:
        claim = self.claim
        labels = {
            containers.JOB: claim.job_id,
            containers.GENERATION: str(claim.generation),
            containers.ATTEMPT: str(claim.attempt),
        }
        if node is not None:
            labels |= {containers.NODE_NUMBER: str(node), containers.PYTHON: self.settings.python}
        if node == 0:
            labels[containers.CLAIM] = canonical(claim).decode()
        return labels

    def _assignment(self, node: int) -> Assignment:
        claim, plan = self.claim, self.submission.plan
        gpus = self.settings.gpus[node] if self.settings.gpus else ()
        return claim.assignment(
            plan,
            node,
            requested=self.submission.requested,
            target=self.target,
            addresses=tuple(alias(n) for n in range(claim.nodes)),
            interpreter=self.settings.interpreter,
            muster_python="",
            gpus=tuple(str(index) for index in range(len(gpus))),  # in a container its own devices are counted from 0
            archive=str(ARCHIVE) if node == 0 and self.submission.archive is not None else "",
        )


def alias(node: int) -> str:
    """Return a node's name in the job's own network."""
    return f"node-{node}"


def _host_config(plan: JobPlan, settings: LaunchSettings, gpus: tuple[str, ...], network: str) -> dict[str, Any]:
    own = {
        "Init": True,
        "NetworkMode": network,
        "RestartPolicy": {"Name": "no"},
        "Mounts": [settings.agent.mount, *(_mount(m.source, m.target, m.read_only) for m in plan.container.mounts)],
        "ShmSize": plan.container.shm_size,
        "NanoCpus": int(plan.needs.cpus * 1e9),
        "Memory": plan.needs.memory,
    }
    if gpus:
        own["DeviceRequests"] = [{"DeviceIDs": list(gpus), "Capabilities": [["gpu"]]}]
    asked = dict(settings.arguments["HostConfig"])
    limits = {limit["Name"]: limit for limit in (BIG_STACK, *settings.agent.ulimits, *asked.pop("Ulimits", ()))}
    return {**own, **asked, "Ulimits": list(limits.values())}


def _mount(source: str, target: str, read_only: bool) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}
