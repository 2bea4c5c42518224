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
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muster.core.errors import TargetError, UnknownRun
from muster.core.finding import Finding
from muster.core.handle import JobHandle, SubmitResult
from muster.core.paths import JobPaths, NodePaths
from muster.core.plan import EnvironmentRef, JobPlan
from muster.core.store_access import StoreAccess
from muster.node.assignment import Assignment
from muster.targets import bare_metal, checks
from muster.targets.claim import Claim, Found, Step, found_of, locked, next_claim, next_step
from muster.targets.contract import Log, Session, Submission
from muster.targets.local.nodes import (
    alive,
    end_agents,
    end_event,
    lay_out,
    loopback_address,
    make_work,
    start_again,
    start_agent,
    take_over,
)
from muster.targets.local.session import LocalSession
from muster.targets.options import default_root

KILL_SLACK = 45.0  # seconds beyond the grace in which cancelled agents must have left
LEAVE_TIME = 30.0  # seconds that agents have to leave once their run's end is written


@dataclass(frozen=True, kw_only=True)
class LocalTarget:
    """This machine; ``root`` keeps jobs, environments, agents and snapshots."""

    root: Path
    name: str = "local"

    @classmethod
    def from_fields(cls, name: str, fields: Mapping[str, Any]) -> LocalTarget:
        """Return the target that plain fields describe."""
        return cls(root=Path(fields.get("root") or default_root()).expanduser().resolve(), name=name)

    # -- contract

    def prepare(self, plan: JobPlan, log: Log) -> None:
        """Build the environment's venv, or find it by its digest.

        :raises RequestError: the plan wants something that only containers have.
        """
        bare_metal.check(plan, self.name, log)
        if plan.environment.digest:
            from muster.packaging.environment import venv

            venv.ensure(plan.environment, self.root, log)

    def submit(self, submission: Submission) -> JobHandle:
        """Get or create the job; see :class:`muster.targets.contract.ComputeTarget`."""
        paths = JobPaths(root=self.root, job_id=submission.job_id)
        digest = submission.plan.digest()
        with locked(paths.lock):
            claim = Claim.read(paths.claim)
            found = self._found(paths, claim)
            step = next_step(claim, found, submission.generation, digest)
            if step in (Step.ATTACH, Step.TAKE):
                assert claim is not None
                return claim.handle(self.name, SubmitResult.ATTACHED if step is Step.ATTACH else SubmitResult.COMPLETED)
            if claim is not None and found is Found.RUNNING:
                self._end(paths, claim, "replaced by a newer submit")
            return self._launch(paths, self._next_claim(claim, step, submission, digest), submission)

    def find(self, job_id: str) -> JobHandle:
        """Give the handle of a job's newest attempt."""
        return self._claim(job_id).handle(self.name, SubmitResult.ATTACHED)

    def session(self) -> Session:
        """Open a session; nothing is connected to, on this machine."""
        return LocalSession(self._nodes_of, self._bring_back)

    def cancel(self, handle: JobHandle, generation: int, reason: str = "cancelled") -> bool:
        """End the job if ``generation`` still owns it; waits until nothing of it is left."""
        paths = JobPaths(root=self.root, job_id=handle.job_id)
        with locked(paths.lock):
            claim = Claim.read(paths.claim)
            if claim is None or claim.generation != generation or self._found(paths, claim) is not Found.RUNNING:
                return False
            self._end(paths, claim, reason)
            return True

    def commit(self, handle: JobHandle, access: StoreAccess) -> JobHandle:
        """Start agents that store what a completed run could not."""
        paths = JobPaths(root=self.root, job_id=handle.job_id)
        with locked(paths.lock):
            claim = self._claim(handle.job_id)
            found = self._found(paths, claim)
            if found is not Found.UNCOMMITTED:
                raise TargetError(f"run {handle.job_id} has nothing to commit: it is {found.value if found else 'unknown'}")
            plan = Assignment.read(self._node_paths(claim)[0].assignment).plan
            submission = Submission(
                job_id=claim.job_id, generation=claim.generation, plan=plan, archive=None, access=access, requested=time.time()
            )
            following = self._next_claim(claim, Step.COMMIT, submission, claim.plan_digest)
            return self._launch(paths, following, submission)

    def release(self, handle: JobHandle) -> None:
        """Keep the job's folders, for people to look into; nothing else is held."""

    def remove(self, handle: JobHandle) -> None:
        """Delete the job's folders."""
        paths = JobPaths(root=self.root, job_id=handle.job_id)
        with locked(paths.lock):
            if self._found(paths, Claim.read(paths.claim)) is Found.RUNNING:
                raise TargetError(f"run {handle.job_id} is still running; cancel it first")
            shutil.rmtree(paths.job, ignore_errors=True)

    def check(self) -> tuple[Finding, ...]:
        """Look at root folder, disk, Python, and the devices that there are."""
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

    # -- what became of an attempt

    def _claim(self, job_id: str) -> Claim:
        claim = Claim.read(JobPaths(root=self.root, job_id=job_id).claim)
        if claim is None:
            raise UnknownRun(
                f"no run {job_id!r} on target {self.name} (root {self.root}); `muster ls` lists those in the store"
            )
        return claim

    def _found(self, paths: JobPaths, claim: Claim | None) -> Found | None:
        """Say what became of the claimed attempt: liveness first, then the end event, never the other way round."""
        if claim is None:
            return None
        nodes = self._node_paths(claim)
        running = any(alive(node, claim.submitted) for node in nodes)
        end = end_event(nodes[0])
        if running and end is not None:
            running = not _left_in_time(nodes, claim.submitted)
        return found_of(running=running, end=end, commit=claim.commit)

    def _end(self, paths: JobPaths, claim: Claim, reason: str) -> None:
        gone = end_agents(self._node_paths(claim), claim.id.marker, claim.submitted, reason, claim.grace + KILL_SLACK)
        if not gone:
            raise TargetError(f"run {claim.job_id}: some processes could not be ended; look for MUSTER_JOB={claim.id.marker}")

    def _bring_back(self, handle: JobHandle, node: int) -> bool:
        """Start the agent of a node that an elastic run has lost again; not if the run has ended or is another attempt's."""
        from muster.packaging import agent_pack

        paths = JobPaths(root=self.root, job_id=handle.job_id)
        with locked(paths.lock):
            claim = Claim.read(paths.claim)
            if claim is None or claim.id != handle.id:
                return False
            nodes = self._node_paths(claim)
            runs = alive(nodes[0], claim.submitted) and end_event(nodes[0]) is None and not nodes[0].cancel.exists()
            if runs and not alive(nodes[node], claim.submitted):
                start_again(nodes[node], agent_pack.unpack_agent(self.root))
                return True
        return False

    # -- launching

    def _next_claim(self, claim: Claim | None, step: Step, submission: Submission, digest: str) -> Claim:
        end = end_event(self._node_paths(claim)[0]) if claim is not None else None
        return next_claim(claim, end, step, submission, digest)

    def _launch(self, paths: JobPaths, claim: Claim, submission: Submission) -> JobHandle:
        from muster.packaging import agent_pack, certificate

        entry = agent_pack.unpack_agent(self.root)
        pem = certificate.make_certificate()
        nodes = self._node_paths(claim)
        # a folder that no claim names was left by a submit that died before it owned the attempt
        shutil.rmtree(paths.attempt(claim.generation, claim.attempt), ignore_errors=True)
        for node_paths in nodes:
            lay_out(node_paths, submission, pem)
            if not claim.commit:
                make_work(node_paths, submission.archive)
        claim.write(paths.claim)
        if claim.commit:
            take_over(paths, claim, nodes)
        for node, node_paths in enumerate(nodes):
            start_agent(node_paths, self._assignment(paths, claim, submission, node), entry)
        return claim.handle(self.name, SubmitResult.LAUNCHED)

    def _assignment(self, paths: JobPaths, claim: Claim, submission: Submission, node: int) -> Assignment:
        plan = submission.plan
        return claim.assignment(
            plan,
            node,
            requested=submission.requested,
            target=self.name,
            addresses=tuple(loopback_address(claim.job_id, n) for n in range(claim.nodes)),
            interpreter=self._interpreter(plan.environment),
            muster_python=sys.executable,
            gpus=_share_of_gpus(plan.needs.gpus, node),
            claim=str(paths.claim),
            archive=str(submission.archive or ""),
        )

    def _interpreter(self, environment: EnvironmentRef) -> str:
        if environment.interpreter:
            return environment.interpreter
        if environment.digest:
            from muster.packaging.environment import venv

            return str(venv.interpreter(environment, self.root))
        return sys.executable

    # -- small things

    def _node_paths(self, claim: Claim) -> list[NodePaths]:
        paths = JobPaths(root=self.root, job_id=claim.job_id)
        return [paths.node(claim.generation, claim.attempt, node) for node in range(claim.nodes)]

    def _nodes_of(self, handle: JobHandle) -> tuple[list[NodePaths], float]:
        paths = JobPaths(root=self.root, job_id=handle.job_id)
        first = paths.node(handle.generation, handle.attempt, 0).assignment
        if not first.exists():
            raise UnknownRun(f"no attempt {handle.attempt} of run {handle.job_id!r} on target {self.name} (root {self.root})")
        assignment = Assignment.read(first)
        nodes = [paths.node(handle.generation, handle.attempt, node) for node in range(len(assignment.plan.nodes))]
        return nodes, assignment.submitted


def _left_in_time(nodes: list[NodePaths], submitted: float) -> bool:
    """Wait for agents whose run has ended to leave."""
    give_up = time.monotonic() + LEAVE_TIME
    while time.monotonic() < give_up:
        if not any(alive(node, submitted) for node in nodes):
            return True
        time.sleep(0.02)
    return False


def _devices() -> str:
    try:
        return subprocess.run(checks.NVIDIA_SMI, capture_output=True, text=True, timeout=checks.LIMIT, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _share_of_gpus(count: int, node: int) -> tuple[str, ...]:
    """Give a node its own devices: those the submitter may see, in order, ``count`` for each node."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = [device.strip() for device in visible.split(",") if device.strip()]
    share = range(node * count, (node + 1) * count)
    return tuple(devices[i] if i < len(devices) else str(i) for i in share) if count else ()
