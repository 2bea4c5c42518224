"""A Slurm task: the first program on every node of a job; the guardian's parent, which says why when Slurm ends the node."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muster.core.codec import canonical
from muster.core.paths import BatchPaths, JobPaths
from muster.core.state import RunState
from muster.node import processes
from muster.node.assignment import Assignment
from muster.node.host import handover
from muster.node.slurm import end_reason, rendezvous

LEAVE_TIME = 90.0  # seconds beyond the grace for an agent that has lost its guardian
OUT_OF_TIME_SLACK = 5.0  # seconds beyond the grace by which the agents are faster than Slurm's time limit
EXPLAIN_TIME = 10.0  # seconds that an agent waits for the reason of its SIGTERM; Slurm kills 30 s after it
SAID_TIME, TAIL = 1.0, 4000  # seconds that srun may take to name a lost node; characters of its output
PAUSE = 0.5  # seconds between two looks at what lives, while no signal comes
ENDED = (signal.SIGTERM, signal.SIGCHLD)
# what of Slurm's own variables a rank may see: all else leads frameworks and mpirun to find their ranks by it
KEPT = frozenset({"SLURM_CONF", "SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_JOB_PARTITION", "SLURM_JOB_ACCOUNT", "SLURM_JOB_QOS"})
KEPT_ALSO = frozenset({"SLURM_CLUSTER_NAME", "SLURM_JOB_NODELIST", "SLURMD_NODENAME", "SLURM_RESTART_COUNT"})
ENGINES_OWN = ("SLURM", "SRUN_", "SBATCH_", "PMI_", "PMI2_", "PMIX_")


def main(arguments: list[str]) -> int:
    """Run one node of the job that was submitted in a folder; gives what Slurm is to keep as exit code."""
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
        self._here = self._paths.node(self._template.generation, self._attempt, self._node)

    def run(self) -> int:
        """Lay the node out, have its guardian live, and outlive it."""
        meeting = self._meet()
        self._lay_out()
        assignment = self._assignment(meeting)
        _write_private(self._here.assignment, canonical(assignment))
        processes.become_subreaper()
        guardian = self._start_guardian(assignment)
        if self._batch.cancel.exists():
            self._explain(guardian)
        status = self._outlive(guardian, assignment.plan.limits.grace)
        for file in (self._here.access, self._here.secrets):
            file.unlink(missing_ok=True)
        return self._conclude(status) if self._node == 0 else 0

    def _conclude(self, status: int) -> int:
        """Remove the credentials unless Slurm may start the job again; gives the exit code for its accounting."""
        end = rendezvous.end_of(self._here)
        if end is not None and rendezvous.decides(end):
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

    def _lay_out(self) -> None:
        """Make the node's folder; one that is there was left by a start that came to nothing."""
        if self._template.commit_only:
            self._take_over()
        else:
            shutil.rmtree(self._here.root, ignore_errors=True)
        for folder in (self._here.outputs, self._here.logs, self._here.checkpoints, self._here.ranks):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._template.archive and not self._template.commit_only:
            _unpack(Path(self._template.archive), self._here.work)
        for source, here in (
            (self._batch.certificate, self._here.certificate),
            (self._batch.access, self._here.access),
            (self._batch.secrets, self._here.secrets),
        ):
            if source.exists():
                _write_private(here, source.read_bytes())

    def _take_over(self) -> None:
        """Move what the ranks left, in whatever attempt it is, into the one that commits it.

        :raises Refused: there is nothing left.
        """
        self._here.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        generation, earlier = self._template.generation, range(self._attempt - 1, 0, -1)
        try:
            handover.hand_over((self._paths.node(generation, attempt, self._node) for attempt in earlier), self._here)
        except handover.OutputsGone as gone:
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
            term_patience=EXPLAIN_TIME,
            notes=meeting.notes,
        )

    def _deadline(self, now: float) -> tuple[float, str]:
        """Give when the run must end, from the first start on its nodes, and why if it is Slurm that says so."""
        limits = self._template.plan.limits
        started = now  # storing what is there is not part of the run's duration
        if not self._template.commit_only:
            started = rendezvous.first_start(self._paths.started(self._template.generation), now)
        deadline = started + limits.max_run_duration
        left = end_reason.seconds_left(end_reason.ask(self._job))
        if left is None or now + left >= deadline:
            return deadline, ""
        margin = min(limits.grace + OUT_OF_TIME_SLACK, left / 2)
        return now + left - margin, f"the time limit of Slurm job {self._job} was reached; all ranks were ended"

    def _start_guardian(self, assignment: Assignment) -> int:
        env = _without_the_engine(os.environ)
        env["MUSTER_JOB"] = assignment.id.marker
        argv = [sys.executable, "-I", "-S", sys.argv[0], "guardian", str(self._here.root)]
        log = (os.POSIX_SPAWN_OPEN, 1, str(self._here.diagnostics), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), log, (os.POSIX_SPAWN_DUP2, 1, 2)]
        return os.posix_spawn(sys.executable, argv, env, file_actions=actions, setsigmask=[signal.SIGTERM])

    # -- beside it

    def _outlive(self, guardian: int, grace: float) -> int:
        """Wait for the guardian, and for an agent that it left alone; every SIGTERM is explained; nothing stays behind."""
        status, give_up = None, math.inf
        while status is None or (processes.descendants(os.getpid()) and time.monotonic() < give_up):
            got = signal.sigtimedwait(ENDED, PAUSE)
            if got is not None and got.si_signo == signal.SIGTERM:
                self._explain(guardian if status is None else 0)
            died = _reap(guardian)
            if status is None and died is not None:
                status, give_up = died, time.monotonic() + grace + LEAVE_TIME
        processes.kill_descendants(os.getpid())
        return status

    def _explain(self, guardian: int) -> None:
        """Tell the agent why Slurm ends it, unless it is Muster itself that does."""
        if not self._here.cancel.exists():
            scratch = self._here.cancel.with_suffix(".new")
            _write_private(scratch, self._why())
            os.replace(scratch, self._here.cancel)
        processes.send([guardian] if guardian else [], signal.SIGTERM)

    def _why(self) -> bytes:
        if self._batch.cancel.exists():
            return self._batch.cancel.read_bytes()
        told = end_reason.ask(self._job)
        return json.dumps(end_reason.wish(self._job, self._restarts, told, self._said(told))).encode()

    def _said(self, told: end_reason.SqueueRow | None) -> str:
        """Give what the batch job has said, with srun's word on a lost node if that is still to come."""
        give_up = time.monotonic() + SAID_TIME
        expected = told is not None and told.restarts > self._restarts and not told.preempted
        while True:
            said = self._batch.output.read_text(errors="replace")[-TAIL:] if self._batch.output.exists() else ""
            if not expected or end_reason.LOST.search(said) or time.monotonic() > give_up:
                return said
            time.sleep(0.1)


def _reap(guardian: int) -> int | None:
    """Collect whoever has ended; gives the guardian's exit status if it is among them."""
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


def _exit_code(end: dict[str, Any] | None, status: int) -> int:
    """Give 0 for a run that completed, else the code of the rank that failed first, so that Slurm's accounting has it."""
    if end is None:
        return status or 1
    if end["state"] == RunState.COMPLETED.value:
        return 0
    verdict = end["verdict"] or {}
    if verdict.get("signal"):
        return 128 + int(verdict["signal"])
    return int(verdict.get("exit_code") or 1) & 255 or 1


def _gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Give the devices that Slurm has set aside for this node."""
    return tuple(device for device in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device.strip())


def _without_the_engine(environ: Mapping[str, str]) -> dict[str, str]:
    kept = KEPT | KEPT_ALSO
    return {name: value for name, value in environ.items() if name in kept or not name.startswith(ENGINES_OWN)}


def _unpack(archive: Path, into: Path) -> None:
    # no filter in older releases of Python; links that lead outside are refused when packing
    safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive, "r:gz") as packed:
        packed.extractall(into, **safe)


def _write_private(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
