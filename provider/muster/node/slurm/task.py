"""Slurm task: the first process on every node of a job; starts the guardian, and reports why when Slurm ends the node."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from muster.core.codec import canonical
from muster.core.event import Event
from muster.core.paths import BatchPaths, JobPaths
from muster.core.state import RunState
from muster.node import processes
from muster.node.assignment import Assignment
from muster.node.event_log import read_end
from muster.node.host import guardian_process, node_folder
from muster.node.private_files import replace_file, write_private
from muster.node.slurm import rendezvous, replies

LEAVE_TIME = 90.0  # seconds beyond the grace for an agent that has lost its guardian
OUT_OF_TIME_SLACK = 5.0  # seconds beyond the grace by which the agents are faster than Slurm's time limit
EXPLAIN_TIMEOUT = 10.0  # seconds that an agent waits for the reason of its SIGTERM; Slurm kills 30 s after it
LOST_NODE_TIME, TAIL = 1.0, 4000  # seconds that srun may take to name a lost node; characters of its output
LIVENESS = 0.5  # seconds between two checks of what lives, while no signal comes
ENDED = (signal.SIGTERM, signal.SIGCHLD)
# what of Slurm's own variables a rank may see: all else leads frameworks and mpirun to find their ranks by it
KEPT = frozenset({"SLURM_CONF", "SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_JOB_PARTITION", "SLURM_JOB_ACCOUNT", "SLURM_JOB_QOS"})
KEPT_ALSO = frozenset({"SLURM_CLUSTER_NAME", "SLURM_JOB_NODELIST", "SLURMD_NODENAME", "SLURM_RESTART_COUNT"})
SLURMS_OWN = ("SLURM", "SRUN_", "SBATCH_", "PMI_", "PMI2_", "PMIX_")


def main(arguments: list[str]) -> int:
    """Run one node of the job whose batch folder is the argument; return the exit code for Slurm's accounting."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDED)
    try:
        return Task(BatchPaths(root=Path(arguments[0])), os.environ).run()
    except rendezvous.StartRefused as refusal:
        sys.stderr.write(f"muster: {refusal}\n")
        return 0 if refusal.harmless else 1


class Task:
    """One node of one start of a Slurm job."""

    def __init__(self, batch: BatchPaths, environ: Mapping[str, str]) -> None:
        self._batch = batch
        self._job = environ["SLURM_JOB_ID"]
        self._node = int(environ["SLURM_NODEID"])
        self._restarts = int(environ.get("SLURM_RESTART_COUNT") or 0)
        self._template = Assignment.read(batch.template)
        self._paths = JobPaths(root=batch.root.parents[2], job_id=self._template.job_id)
        self._attempt = self._template.attempt + self._restarts
        self._node_paths = self._paths.node(self._template.generation, self._attempt, self._node)

    def run(self) -> int:
        """Create the node's folder, start its guardian, and outlive the guardian."""
        meeting = self._meet()
        self._create_folder()
        assignment = self._assignment(meeting)
        write_private(self._node_paths.assignment, canonical(assignment))
        processes.become_subreaper()
        guardian = self._start_guardian(assignment)
        if self._batch.cancel.exists():
            self._terminate(guardian)
        status = self._wait(guardian, assignment.plan.limits.grace)
        for file in (self._node_paths.access, self._node_paths.secrets):
            file.unlink(missing_ok=True)
        return self._conclude(status) if self._node == 0 else 0

    def _conclude(self, status: int) -> int:
        """Delete the credentials unless Slurm may start the job again; return the exit code for Slurm's accounting."""
        end = read_end(self._node_paths.events)
        if end is not None and rendezvous.is_final(end):
            for file in (self._batch.access, self._batch.secrets):
                file.unlink(missing_ok=True)
        return _exit_code(end, status)

    # -- before the guardian

    def _meet(self) -> rendezvous.Meeting:
        place = self._paths.batch(self._template.generation, self._attempt)
        place.root.mkdir(exist_ok=True, mode=0o700)
        if self._node:
            limit = self._template.plan.limits.mesh
            return rendezvous.follow(place.leader(self._job), self._template.job_id, self._node, limit)
        return rendezvous.lead(self._paths, place.leader(self._job), self._template, self._restarts)

    def _create_folder(self) -> None:
        """Create the node's folder; a folder that exists was left by a start that failed."""
        if self._template.commit_only:
            self._hand_over_outputs()
        else:
            shutil.rmtree(self._node_paths.root, ignore_errors=True)
        for folder in (self._node_paths.outputs, self._node_paths.logs, self._node_paths.checkpoints, self._node_paths.ranks):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._template.archive and not self._template.commit_only:
            node_folder.unpack_code(self._template.archive, self._node_paths.work)
        for source, destination in (
            (self._batch.certificate, self._node_paths.certificate),
            (self._batch.access, self._node_paths.access),
            (self._batch.secrets, self._node_paths.secrets),
        ):
            if source.exists():
                write_private(destination, source.read_bytes())

    def _hand_over_outputs(self) -> None:
        """Move the ranks' outputs from the attempt that has them into the attempt that commits them.

        :raises StartRefused: no attempt has them.
        """
        self._node_paths.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        generation, earlier = self._template.generation, range(self._attempt - 1, 0, -1)
        try:
            node_folder.hand_over_outputs(
                (self._paths.node(generation, attempt, self._node) for attempt in earlier), self._node_paths
            )
        except node_folder.OutputsGone as gone:
            left = f"what node {self._node} of run {self._template.job_id} left is gone: {gone}"
            raise rendezvous.StartRefused(f"{left}; it can't be committed, clear the task to train anew") from gone

    def _assignment(self, meeting: rendezvous.Meeting) -> Assignment:
        plan, addresses = self._template.plan, [""] * len(self._template.plan.nodes)
        addresses[0], addresses[self._node] = meeting.leader, meeting.own
        now = time.time()
        deadline, why = self._deadline(now)
        return dataclasses.replace(
            self._template,
            node=self._node,
            attempt=self._attempt,
            addresses=tuple(addresses),
            submitted=now,
            deadline=deadline,
            deadline_reason=why,
            interpreter=self._template.interpreter or sys.executable,
            muster_python=sys.executable,
            gpus=_gpus(os.environ) if plan.needs.gpus and not self._template.commit_only else (),
            history=meeting.history if meeting.history is not None else self._template.history,
            claim=str(self._paths.claim),
            term_timeout=EXPLAIN_TIMEOUT,
            notes=meeting.notes,
        )

    def _deadline(self, now: float) -> tuple[float, str]:
        """Return when the run must end, counted from its first start, and the reason if Slurm sets the limit."""
        limits = self._template.plan.limits
        started = now  # a commit is not part of the run's duration
        if not self._template.commit_only:
            started = rendezvous.first_start(self._paths.started(self._template.generation), now)
        deadline = started + limits.max_run_duration
        left = replies.seconds_left(replies.ask(self._job))
        if left is None or now + left >= deadline:
            return deadline, ""
        margin = min(limits.grace + OUT_OF_TIME_SLACK, left / 2)
        return now + left - margin, f"the time limit of Slurm job {self._job} was reached; all ranks were ended"

    def _start_guardian(self, assignment: Assignment) -> int:
        env = _without_slurms_own(os.environ)
        env["MUSTER_JOB"] = assignment.id.marker
        argv = guardian_process.guardian_command(self._node_paths, sys.argv[0])
        return guardian_process.spawn_guardian(self._node_paths, argv, env, setsigmask=[signal.SIGTERM])

    # -- beside the guardian

    def _wait(self, guardian: int, grace: float) -> int:
        """Wait for the guardian, or an agent whose guardian has died; pass on SIGTERM with its reason; leave no process."""
        status, deadline = None, math.inf
        while status is None or (processes.descendants(os.getpid()) and time.monotonic() < deadline):
            got = signal.sigtimedwait(ENDED, LIVENESS)
            if got is not None and got.si_signo == signal.SIGTERM:
                self._terminate(guardian if status is None else 0)
            died = _reap(guardian)
            if status is None and died is not None:
                status, deadline = died, time.monotonic() + grace + LEAVE_TIME
        processes.kill_descendants(os.getpid())
        return status

    def _terminate(self, guardian: int) -> None:
        """Send a SIGTERM to the guardian, after writing the reason unless a cancel has written one."""
        if not self._node_paths.cancel.exists():
            with contextlib.suppress(OSError):  # a full disk takes no reason; agents leave without one too
                replace_file(self._node_paths.cancel, self._reason())
        processes.send_signal([guardian] if guardian else [], signal.SIGTERM)

    def _reason(self) -> bytes:
        if self._batch.cancel.exists():
            return self._batch.cancel.read_bytes()
        row = replies.ask(self._job)
        return canonical(replies.end_reason(self._job, self._restarts, row, self._output(row)))

    def _output(self, row: replies.SqueueRow | None) -> str:
        """Return the end of the batch job's output; wait for srun's line on a lost node if that is still to come."""
        deadline = time.monotonic() + LOST_NODE_TIME
        expected = row is not None and row.restarts > self._restarts and not row.preempted
        while True:
            output = self._batch.output.read_text(errors="replace")[-TAIL:] if self._batch.output.exists() else ""
            if not expected or replies.LOST.search(output) or time.monotonic() > deadline:
                return output
            time.sleep(0.1)


def _reap(guardian: int) -> int | None:
    """Reap the children that have ended; return the guardian's exit status if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == guardian:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else 128 - code


def _exit_code(end: Event | None, status: int) -> int:
    """Return 0 for a run that completed, else the exit code of the rank that failed first, for Slurm's accounting."""
    if end is None:
        return status or 1
    if end.data["state"] == RunState.COMPLETED.value:
        return 0
    verdict = end.data["verdict"] or {}
    if verdict.get("signal"):
        return 128 + int(verdict["signal"])
    return int(verdict.get("exit_code") or 1) & 255 or 1


def _gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the devices that Slurm has allocated on this node."""
    return tuple(device for device in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device.strip())


def _without_slurms_own(environ: Mapping[str, str]) -> dict[str, str]:
    kept = KEPT | KEPT_ALSO
    return {name: value for name, value in environ.items() if name in kept or not name.startswith(SLURMS_OWN)}
