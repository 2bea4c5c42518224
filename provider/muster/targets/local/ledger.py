"""Local ledger: claims in files under one lock each, agents started and ended on this machine."""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from muster.core.errors import TargetError
from muster.core.handle import JobHandle
from muster.core.paths import JobPaths, NodePaths
from muster.core.plan import EnvironmentRef, JobPlan
from muster.node.assignment import Assignment
from muster.targets.claim import Claim, locked, status_of
from muster.targets.contract import Submission
from muster.targets.lifecycle import Ledger, Standing, Timing
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


@dataclass(frozen=True, kw_only=True)
class LocalTiming(Timing):
    """Limits of waiting on this machine, in seconds."""

    leave: float = 30.0  # for agents to leave once their run's END is written


@dataclass(frozen=True, kw_only=True)
class LocalLedger(Ledger[Standing]):
    """Jobs below ``root``."""

    root: Path
    target: str
    timing: LocalTiming = field(default_factory=LocalTiming)

    @property
    def place(self) -> str:
        """Return the root folder, for error messages."""
        return f"root {self.root}"

    def locked(self, job_id: str) -> AbstractContextManager[None]:
        """Hold the job's lock, which the kernel releases if this process dies."""
        return locked(self._paths(job_id).lock)

    def owner(self, job_id: str) -> Claim | None:
        """Return who owns the job."""
        return Claim.read(self._paths(job_id).claim)

    def standing(self, job_id: str) -> Standing:
        """Return who owns the job and what became of that attempt."""
        claim = self.owner(job_id)
        if claim is None:
            return Standing()
        nodes = self.nodes(claim)
        running = any(alive(node, claim.submitted) for node in nodes)
        end = end_event(nodes[0])
        if running and end is not None:
            running = not self._left_in_time(nodes, claim.submitted)
        return Standing(claim=claim, status=status_of(running=running, end=end, commit=claim.commit), end=end)

    def _left_in_time(self, nodes: list[NodePaths], submitted: float) -> bool:
        """Wait for agents whose run has ended to leave."""
        deadline = time.monotonic() + self.timing.leave
        while time.monotonic() < deadline:
            if not any(alive(node, submitted) for node in nodes):
                return True
            time.sleep(0.02)
        return False

    def end(self, standing: Standing, reason: str) -> None:
        """End the attempt's agents and whatever carries its marker."""
        claim = standing.claim
        assert claim is not None
        timeout = claim.grace + self.timing.kill_slack
        if not end_agents(self.nodes(claim), claim.id.marker, claim.submitted, reason, timeout):
            raise TargetError(f"run {claim.job_id}: some processes could not be ended; look for MUSTER_JOB={claim.id.marker}")

    def plan_of(self, standing: Standing) -> JobPlan:
        """Return the plan of the owning attempt."""
        assert standing.claim is not None
        return Assignment.read(self.nodes(standing.claim)[0].assignment).plan

    def delete(self, job_id: str, standing: Standing) -> None:
        """Delete the job's folders."""
        shutil.rmtree(self._paths(job_id).job, ignore_errors=True)

    def nodes(self, claim: Claim | JobHandle, count: int = 0) -> list[NodePaths]:
        """Return the node folders of an attempt."""
        paths = self._paths(claim.job_id)
        nodes = claim.nodes if isinstance(claim, Claim) else count
        return [paths.node(claim.generation, claim.attempt, node) for node in range(nodes)]

    def _paths(self, job_id: str) -> JobPaths:
        return JobPaths(root=self.root, job_id=job_id)

    # -- launching

    def launch(self, claim: Claim, before: Standing, submission: Submission) -> bool:
        """Create the nodes' folders, own the job, and start the agents; the lock keeps others out."""
        from muster.packaging import agent_pack, certificate

        entry = agent_pack.unpack_agent(self.root)
        pem = certificate.make_certificate()
        paths, nodes = self._paths(claim.job_id), self.nodes(claim)
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
            start_agent(node_paths, self._assignment(claim, submission, node), entry)
        return True

    def _assignment(self, claim: Claim, submission: Submission, node: int) -> Assignment:
        plan = submission.plan
        return claim.assignment(
            plan,
            node,
            requested=submission.requested,
            target=self.target,
            addresses=tuple(loopback_address(claim.job_id, n) for n in range(claim.nodes)),
            interpreter=self._interpreter(plan.environment),
            muster_python=sys.executable,
            gpus=_share_of_gpus(plan.needs.gpus, node),
            claim=str(self._paths(claim.job_id).claim),
            archive=str(submission.archive or ""),
        )

    def _interpreter(self, environment: EnvironmentRef) -> str:
        if environment.interpreter:
            return environment.interpreter
        if environment.digest:
            from muster.packaging.environment import venv

            return str(venv.interpreter(environment, self.root))
        return sys.executable

    def restart_node(self, handle: JobHandle, node: int) -> bool:
        """Start the agent of a node that an elastic run has lost again; not if the run has ended or is another attempt's."""
        from muster.packaging import agent_pack

        with self.locked(handle.job_id):
            claim = self.owner(handle.job_id)
            if claim is None or claim.id != handle.id:
                return False
            nodes = self.nodes(claim)
            runs = alive(nodes[0], claim.submitted) and end_event(nodes[0]) is None and not nodes[0].cancel.exists()
            if runs and not alive(nodes[node], claim.submitted):
                start_again(nodes[node], agent_pack.unpack_agent(self.root))
                return True
        return False


def _share_of_gpus(count: int, node: int) -> tuple[str, ...]:
    """Return a node's own devices: those that the submitter may see, in order, ``count`` for each node."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = [device.strip() for device in visible.split(",") if device.strip()]
    share = range(node * count, (node + 1) * count)
    return tuple(devices[i] if i < len(devices) else str(i) for i in share) if count else ()
