"""DockerTarget: one Docker engine; every node a container of its own, all of a job in a private network.

Offered: images (built or the user's own), limits on CPU and memory, GPUs by device request (each node its own share of the
target's devices), mounts of the engine's folders, any user id, words of ``docker run``. Not offered: nodes on several
machines (one engine is one machine), reservation of GPUs against other jobs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from muster.core.errors import RequestError, TargetError, UnknownRun
from muster.core.finding import Finding
from muster.core.handle import JobHandle, SubmitResult
from muster.core.plan import EnvironmentRef, JobPlan
from muster.core.store_access import StoreAccess
from muster.targets.claim import Claim, Found, Step, found_of, next_claim, next_step
from muster.targets.contract import BuiltImage, Log, Session, Submission
from muster.targets.docker import agent_volume as docker_agent
from muster.targets.docker import image as docker_image
from muster.targets.docker import run_arguments as docker_arguments
from muster.targets.docker.account import account_of
from muster.targets.docker.check import check
from muster.targets.docker.containers import Attempt, Jobs
from muster.targets.docker.engine import Engine
from muster.targets.docker.errors import explained
from muster.targets.docker.image import BUILT_PYTHON, Image, Images
from muster.targets.docker.launch import Launch, Setting, Taken
from muster.targets.docker.options import OPTIONS
from muster.targets.docker.session import DockerSession
from muster.targets.docker.termination import await_birth, end, forget_older
from muster.targets.options import parse_options

KILL_SLACK = 45.0  # seconds beyond the grace in which cancelled agents must have left
LOOPBACK = ("localhost", "127.", "[::1]", "::1")
SCRATCH = {"muster.scratch": "yes"}


@dataclass(frozen=True, kw_only=True)
class DockerTarget:
    """One engine. ``networks`` are joined by every node besides the job's own; ``gpus`` are the devices that jobs may use."""

    engine: Engine
    name: str = "docker"
    images: Images = field(default_factory=Images)
    networks: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()

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
        client, where = self.engine.client, self.engine.url
        image = self.images.ensure(client, plan.environment, where, log)
        docker_agent.ensure(client, image, docker_image.python_of(plan.environment), where, log)

    def build_image(self, environment: EnvironmentRef, log: Log) -> BuiltImage:
        """Build the image of an environment, or find it on the engine."""
        image = self.images.ensure(self.engine.client, environment, self.engine.url, log)
        return BuiltImage(name=image.name, id=image.id, location=self.engine.url)

    def submit(self, submission: Submission) -> JobHandle:
        """Get or create the job; see :class:`muster.targets.contract.ComputeTarget`."""
        _refuse_loopback(submission.access)
        digest = submission.plan.digest()
        while True:
            attempts = self._attempts(submission.job_id)
            owner = attempts[0] if attempts else None
            claim, found, ended = self._became(owner)
            step = next_step(claim, found, submission.generation, digest)
            if step in (Step.ATTACH, Step.TAKE):
                assert claim is not None
                assert owner is not None
                forget_older(self._jobs, attempts, owner.id)
                return claim.handle(self.name, SubmitResult.ATTACHED if step is Step.ATTACH else SubmitResult.COMPLETED)
            if owner is not None and found is Found.RUNNING:
                self._end(owner, "replaced by a newer submit")
            try:
                return self._launch(next_claim(claim, ended, step, submission, digest), step, submission, attempts)
            except Taken:
                continue

    def find(self, job_id: str) -> JobHandle:
        """Give the handle of a job's newest attempt."""
        return self._claim(self._owner(job_id)).handle(self.name, SubmitResult.ATTACHED)

    def session(self) -> Session:
        """Open a session: one client, a stream for every node that is watched."""
        return DockerSession(self.engine)

    def cancel(self, handle: JobHandle, generation: int, reason: str = "cancelled") -> bool:
        """End the job if ``generation`` still owns it; waits until nothing of it is left."""
        attempts = self._attempts(handle.job_id)
        if not attempts or attempts[0].id.generation != generation or not attempts[0].running:
            return False
        self._end(attempts[0], reason)
        return True

    def commit(self, handle: JobHandle, access: StoreAccess) -> JobHandle:
        """Start agents that store what a completed run could not."""
        _refuse_loopback(access)
        attempts = self._attempts(handle.job_id)
        owner = self._owner(handle.job_id, attempts)
        claim, found, ended = self._became(owner)
        if claim is None or found is not Found.UNCOMMITTED:
            raise TargetError(f"run {handle.job_id} has nothing to commit: it is {found.value if found else 'unknown'}")
        submission = Submission(
            job_id=claim.job_id,
            generation=claim.generation,
            plan=self._jobs.assignment_of(owner).plan,
            archive=None,
            access=access,
            requested=time.time(),
        )
        following = next_claim(claim, ended, Step.COMMIT, submission, claim.plan_digest)
        return self._launch(following, Step.COMMIT, submission, attempts)

    def release(self, handle: JobHandle) -> None:
        """Remove the containers and networks of the run, unless it lives or its outputs could not be stored yet."""
        attempts = [a for a in self._all(handle.job_id) if a.id <= handle.id]
        if attempts and (attempts[0].running or self._found(attempts[0])[0] is Found.UNCOMMITTED):
            return
        self._jobs.remove(attempts)
        self._jobs.remove_networks(handle.job_id, last=handle.id)

    def remove(self, handle: JobHandle) -> None:
        """Remove everything of the job from the engine, outputs that were never stored included."""
        attempts = self._all(handle.job_id)
        if any(attempt.running for attempt in attempts):
            raise TargetError(f"run {handle.job_id} is still running; cancel it first")
        self._jobs.remove(attempts)
        self._jobs.remove_networks(handle.job_id)

    def check(self) -> tuple[Finding, ...]:
        """Look at engine, images, networks and GPUs."""
        return check(self.engine, self.images, self.networks, self.gpus)

    # -- what became of an attempt

    @property
    def _jobs(self) -> Jobs:
        return Jobs(self.engine.client, self.engine.url)

    def _all(self, job_id: str) -> list[Attempt]:
        return self._jobs.attempts(job_id)

    def _attempts(self, job_id: str) -> list[Attempt]:
        """Give a job's attempts, the owner first; launches that nobody brought to an end are removed."""
        attempts = self._all(job_id)
        while attempts and (attempts[0].claim is None or attempts[0].unborn):
            debris = attempts[0]
            if debris.claim is None or not await_birth(self.engine.client, self.engine.url, debris):
                self._jobs.remove([debris])
                self._jobs.remove_networks(job_id, keep=[a.id for a in attempts[1:]])
            attempts = self._all(job_id)
        return attempts

    def _owner(self, job_id: str, attempts: list[Attempt] | None = None) -> Attempt:
        found = self._attempts(job_id) if attempts is None else attempts
        if not found:
            raise UnknownRun(
                f"no run {job_id!r} on target {self.name} ({self.engine.url}); `muster ls` lists those in the store"
            )
        return found[0]

    @staticmethod
    def _claim(attempt: Attempt) -> Claim:
        assert attempt.claim is not None
        return attempt.claim

    def _became(self, owner: Attempt | None) -> tuple[Claim | None, Found | None, Any]:
        return (None, None, None) if owner is None else (owner.claim, *self._found(owner))

    def _found(self, attempt: Attempt) -> tuple[Found, Any]:
        """Say what became of an attempt, and give its END event unless it lives."""
        if attempt.running:
            return Found.RUNNING, None
        with explained(f"reading how attempt {attempt.id.attempt} ended", self.engine.url):
            ended = self._jobs.end_of(attempt)
        commit = attempt.claim is not None and attempt.claim.commit
        return found_of(running=False, end=ended, commit=commit), ended

    def _end(self, attempt: Attempt, reason: str) -> None:
        end(self.engine.client, self.engine.url, attempt, reason, self._claim(attempt).grace + KILL_SLACK)

    # -- launching

    def _launch(self, claim: Claim, step: Step, submission: Submission, attempts: list[Attempt]) -> JobHandle:
        if attempts:
            self._jobs.step_aside(attempts[0])
        launch = Launch(
            client=self.engine.client,
            where=self.engine.url,
            target=self.name,
            claim=claim,
            submission=submission,
            setting=self._setting(submission.plan),
            before=attempts[0] if step is Step.COMMIT else None,
        )
        launch.run()
        if attempts:
            forget_older(self._jobs, attempts, claim.id)
        return claim.handle(self.name, SubmitResult.LAUNCHED)

    def _setting(self, plan: JobPlan) -> Setting:
        client, where, ref = self.engine.client, self.engine.url, plan.environment
        arguments = docker_arguments.parse(plan.container.arguments)
        image = self._image(ref)
        python = docker_image.python_of(ref)
        agent = docker_agent.find(client, docker_agent.volume_name(image.id, python), where)
        with explained(f"looking up the user of image {image.name}", where):
            account = account_of(client, image.id, arguments["User"] or image.user, SCRATCH)
        return Setting(
            image=image,
            python=python,
            agent=agent or docker_agent.ensure(client, image, python, where, lambda line: None),
            account=account,
            arguments=arguments,
            interpreter=ref.interpreter or (BUILT_PYTHON if docker_image.is_built(ref) else ""),
            networks=self.networks,
            gpus=self._shares(plan),
        )

    def _image(self, ref: EnvironmentRef) -> Image:
        found = docker_image.find(self.engine.client, self.images.name_of(ref), self.engine.url)
        return found or self.images.ensure(self.engine.client, ref, self.engine.url, lambda line: None)

    def _shares(self, plan: JobPlan) -> tuple[tuple[str, ...], ...]:
        """Give every node its own devices, in order."""
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
