"""Local ledger: claims in files under one lock each, agents started and ended on this machine."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from muster.core.codec import canonical
from muster.core.errors import TargetError
from muster.core.handle import JobHandle
from muster.core.paths import JobPaths, NodePaths
from muster.core.plan import EnvironmentRef, JobPlan
from muster.core.verdict import Cause
from muster.node import processes
from muster.node.assignment import Assignment, loopback_address
from muster.node.cancel_request import CancelRequest
from muster.node.event_log import read_end
from muster.node.host import guardian_process, liveness, node_folder
from muster.node.host.node_control import EndNodes, NodeControl
from muster.node.private_files import write_private
from muster.targets.claim import Claim, locked_job, status_of
from muster.targets.contract import Submission
from muster.targets.lifecycle import Ledger, Standing, Timing


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
    def location(self) -> str:
        """Return the root folder, for error messages."""
        return f"root {self.root}"

    def locked(self, job_id: str) -> AbstractContextManager[None]:
        """Hold the job's lock, which the kernel releases if this process dies."""
        return locked_job(self._paths(job_id).lock)

    def owner(self, job_id: str) -> Claim | None:
        """Return who owns the job."""
        return Claim.read(self._paths(job_id).claim)

    def standing(self, job_id: str) -> Standing:
        """Return who owns the job and what became of that attempt."""
        claim = self.owner(job_id)
        if claim is None:
            return Standing()
        nodes = self.nodes(claim)
        running = any(map(_is_alive, nodes))
        end = read_end(nodes[0].events)
        if running and end is not None:
            running = not self._left_in_time(nodes)
        return Standing(claim=claim, status=status_of(running=running, end=end, commit=claim.commit), end=end)

    def _left_in_time(self, nodes: list[NodePaths]) -> bool:
        """Wait for agents whose run has ended to leave."""
        deadline = time.monotonic() + self.timing.leave
        while time.monotonic() < deadline:
            if not any(map(_is_alive, nodes)):
                return True
            time.sleep(0.02)
        return False

    def end(self, standing: Standing, reason: str) -> None:
        """End the attempt's agents and whatever carries its marker."""
        claim = standing.claim
        assert claim is not None
        request = EndNodes(
            folders=tuple(str(node.root) for node in self.nodes(claim)),
            cancel=CancelRequest(cause=Cause.CANCEL, reason=reason),
            timeout=claim.grace + self.timing.kill_slack,
        )
        if NodeControl(self.root, io.BytesIO()).end_nodes(request):
            raise TargetError(f"run {claim.job_id}: some processes could not be ended; look for MUSTER_JOB={claim.id.marker}")

    def plan_of(self, standing: Standing) -> JobPlan:
        """Return the plan of the owning attempt."""
        assert standing.claim is not None
        return Assignment.read(self.nodes(standing.claim)[0].assignment).plan

    def delete(self, job_id: str, standing: Standing) -> None:
        """Delete the job's folders."""
        shutil.rmtree(self._paths(job_id).job, ignore_errors=True)

    def nodes(self, claim: Claim) -> list[NodePaths]:
        """Return the node folders of the claimed attempt."""
        paths = self._paths(claim.job_id)
        return [paths.node(claim.generation, claim.attempt, node) for node in range(claim.nodes)]

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
        for folder in nodes:
            _create(folder, submission, pem, work=not claim.commit)
        claim.write(paths.claim)
        if claim.commit:
            self._hand_over_outputs(claim, nodes)
        for node, folder in enumerate(nodes):
            start_agent(folder, self._assignment(claim, submission, node), entry)
        return True

    def _hand_over_outputs(self, claim: Claim, nodes: list[NodePaths]) -> None:
        """Move the ranks' outputs from the attempt that has them into the attempt that commits them."""
        paths = self._paths(claim.job_id)
        for node, node_paths in enumerate(nodes):
            earlier = (paths.node(claim.generation, attempt, node) for attempt in range(claim.attempt - 1, 0, -1))
            try:
                node_folder.hand_over_outputs(earlier, node_paths)
            except (node_folder.OutputsGone, OSError) as error:
                what = f"the outputs of node {node} of run {claim.job_id} are not available: {error}"
                raise TargetError(f"{what}; they can't be committed, clear the task to train anew") from error

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
        """Start the agent of a lost node of an elastic run again; return whether it is alive then, whoever started it.

        Not if the run has ended or is another attempt's.
        """
        from muster.packaging import agent_pack

        with self.locked(handle.job_id):
            claim = self.owner(handle.job_id)
            if claim is None or claim.id != handle.id:
                return False
            nodes = self.nodes(claim)
            if not _is_alive(nodes[0]) or read_end(nodes[0].events) is not None or nodes[0].cancel.exists():
                return False
            if not _is_alive(nodes[node]):
                _kill_ranks(nodes[node], claim, node)
                guardian_process.restart_guardian(nodes[node], str(agent_pack.unpack_agent(self.root)))
            return True


def start_agent(node: NodePaths, assignment: Assignment, entry: Path) -> None:
    """Start a node's guardian, which starts the agent; both outlive this process."""
    write_private(node.assignment, canonical(assignment))
    liveness.expect_birth(node)
    guardian_process.start_guardian(node, str(entry), assignment.id.marker)


def _create(node: NodePaths, submission: Submission, pem: bytes, *, work: bool) -> None:
    """Create a node's folder with its private files, and with ``work`` what the ranks start with."""
    node.root.mkdir(parents=True, mode=0o700)
    write_private(node.certificate, pem)
    write_private(node.access, canonical(submission.access))
    if submission.secrets:
        write_private(node.secrets, json.dumps(submission.secrets).encode())
    for folder in (node.outputs, node.logs, node.checkpoints, node.ranks) if work else ():
        folder.mkdir(parents=True)
    if work and submission.archive is not None:
        node_folder.unpack_code(str(submission.archive), node.work)


def _is_alive(node: NodePaths) -> bool:
    return liveness.is_alive(str(node.root))


def _kill_ranks(node: NodePaths, claim: Claim, number: int) -> None:
    """Kill what the ranks of one node have left behind, where agent and guardian died at once; other nodes live on here."""
    of_job = set(processes.marked(f"MUSTER_JOB={claim.id.marker}"))
    of_node = {*processes.marked(f"MUSTER_NODE={number}"), *processes.marked(f"MUSTER_SHIM_FOLDER={node.root}")}
    processes.send_signal(of_job & of_node, signal.SIGKILL)


def _share_of_gpus(count: int, node: int) -> tuple[str, ...]:
    """Return a node's own devices: those that the submitter may see, in order, ``count`` for each node."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = [device.strip() for device in visible.split(",") if device.strip()]
    share = range(node * count, (node + 1) * count)
    return tuple(devices[i] if i < len(devices) else str(i) for i in share) if count else ()
