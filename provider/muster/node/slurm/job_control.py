"""Slurm job control, on the login node: claims and files of jobs on the shared folder, sbatch. One JSON request, one reply."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from muster.core.codec import canonical, from_data
from muster.core.event import Event
from muster.core.paths import BatchPaths, JobPaths, NodePaths, check_file_name
from muster.node.assignment import Assignment
from muster.node.cancel_request import CancelRequest
from muster.node.event_log import read_end
from muster.node.private_files import replace_file, write_private
from muster.node.rpc import Commands, OfJob, Request
from muster.node.slurm import claim_chain, replies
from muster.node.slurm.claim_chain import ChainEntry
from muster.node.slurm.replies import SubmitOutcome

PART = "slurm-job-control"  # of start.py
SUBMIT_TIME = 300.0  # seconds for sbatch
ASK_TIME = 60.0
# what a batch job inherits from the login; anything else (credentials of a local submitter above all) stays behind
INHERITED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "SLURM_CONF", "LD_LIBRARY_PATH", "MODULEPATH"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)
OUTPUT_TAIL, OUTPUT_LINES = 4000, 12  # bytes and lines of a batch job's output
NUMBER, COMMENT = 20, 200  # columns of squeue


T = TypeVar("T")

# -- what is known of a job


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """Outcome of one sbatch call: the number of the Slurm job, or the reason why there is none."""

    job: str
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class BatchRecord:
    """Files of a batch job. ``submitted``: None until the outcome is written."""

    submitted: Submitted | None
    cancel: CancelRequest | None
    output: str


@dataclass(frozen=True, kw_only=True)
class JobFiles:
    """Files of a job: its claims, its batch jobs by folder, age and END of the newest attempt."""

    next_number: int
    entries: tuple[ChainEntry, ...] = ()
    batches: dict[str, BatchRecord] = field(default_factory=dict)
    age: float = 0.0
    end: Event | None = None


@dataclass(frozen=True, kw_only=True)
class ReadJobs(Request[dict[str, JobFiles]]):
    """Return what the shared folder has of jobs, by id."""

    jobs: tuple[str, ...]

    def __post_init__(self) -> None:
        for job_id in self.jobs:
            check_file_name(job_id)


# -- requests about one job


@dataclass(frozen=True, kw_only=True)
class ReadTemplate(Request[Assignment], OfJob):
    """Return the assignment that a batch job was submitted with."""

    generation: int
    base: int


@dataclass(frozen=True, kw_only=True)
class SubmitReply:
    """Outcome of a submit: whether the claim was won, and the Slurm job's number, else sbatch's message."""

    won: bool
    outcome: SubmitOutcome = SubmitOutcome.UNKNOWN
    message: str = ""
    job: str = ""


@dataclass(frozen=True, kw_only=True)
class SubmitJob(Request[SubmitReply], OfJob):
    """Claim a job's next attempt and submit it. ``files``: of its folder, in base64; ``argv``: sbatch's, but for the script."""

    number: int
    entry: ChainEntry
    files: dict[str, str] = field(repr=False)
    argv: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.files:
            check_file_name(name)


@dataclass(frozen=True, kw_only=True)
class FoundJob:
    """The number of a Slurm job, "" if there is none. ``failed``: why Slurm can't be asked; then nobody knows."""

    job: str
    failed: str = ""


@dataclass(frozen=True, kw_only=True)
class FindJob(Request[FoundJob], OfJob):
    """Find the Slurm job of an attempt by name and comment, where sbatch's answer was never written down."""

    comment: str
    generation: int
    base: int
    squeue: str
    sacct: str


@dataclass(frozen=True, kw_only=True)
class RequestCancel(Request[int], OfJob):
    """Write a cancel request where the agents read it; return how many nodes there are."""

    generation: int
    base: int
    attempt: int
    cancel: CancelRequest


@dataclass(frozen=True, kw_only=True)
class DeleteCredentials(Request[None], OfJob):
    """Delete the credentials of all attempts up to one; newer attempts may be about to start."""

    generation: int
    attempt: int


@dataclass(frozen=True, kw_only=True)
class RemoveJob(Request[bool], OfJob):
    """Delete a job's folder, unless another claim has followed; return whether it was deleted."""

    number: int


def main(arguments: list[str]) -> int:
    """Answer the request on the standard input; the argument is the root folder."""
    os.umask(0o077)
    json.dump(JobControl(Path(arguments[0])).commands.answer(sys.stdin.read()), sys.stdout)
    return 0


class JobControl:
    """The jobs below one root folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.commands = Commands(
            {
                ReadJobs: self.read_jobs,
                ReadTemplate: self.read_template,
                SubmitJob: self.submit_job,
                FindJob: self.find_job,
                RequestCancel: self.request_cancel,
                DeleteCredentials: self.delete_credentials,
                RemoveJob: self.remove_job,
            }
        )

    def _paths(self, job_id: str) -> JobPaths:
        return JobPaths(root=self._root, job_id=job_id)

    def read_jobs(self, request: ReadJobs) -> dict[str, JobFiles]:
        """Return what the shared folder has of jobs."""
        return {job_id: _job_files(self._paths(job_id)) for job_id in request.jobs}

    def read_template(self, request: ReadTemplate) -> Assignment:
        """Return the assignment that a batch job was submitted with."""
        return Assignment.read(self._paths(request.job_id).batch(request.generation, request.base).template)

    def submit_job(self, request: SubmitJob) -> SubmitReply:
        """Append the claim, unless somebody was faster, and submit; delete what a refused launch leaves.

        Where Slurm may have the job without saying so, the claim stays: else the next submit makes another job of this attempt.
        """
        paths, entry = self._paths(request.job_id), request.entry
        batch = paths.batch(entry.generation, entry.base)
        scratch = paths.job / f".new-{os.urandom(8).hex()}"
        _write_all(scratch, request.files)
        if not claim_chain.append(paths, request.number, entry):
            shutil.rmtree(scratch)
            return SubmitReply(won=False)
        shutil.rmtree(batch.root, ignore_errors=True)  # no claim names it: a submit died before it owned the attempt
        os.rename(scratch, batch.root)
        done = _run([*request.argv, str(batch.script)], SUBMIT_TIME)
        message = _message(done)
        outcome = replies.submit_outcome(done.returncode, message)
        job = ""
        if outcome is SubmitOutcome.TAKEN:
            job = done.stdout.split(";")[0].split()[-1]
            replace_file(batch.submitted, canonical(Submitted(job=job)))
        elif outcome is SubmitOutcome.UNKNOWN:
            os.utime(paths.claim)  # the time in which a job must be found counts from now
        else:
            withdraw(paths, request.number, batch, message)
        return SubmitReply(won=True, outcome=outcome, message=message, job=job)

    def find_job(self, request: FindJob) -> FoundJob:
        """Search squeue, then accounting."""
        batch = self._paths(request.job_id).batch(request.generation, request.base)
        fields = f"--Format=JobID:{NUMBER},Comment:{COMMENT}"
        done = _run([request.squeue, "--noheader", "--states=all", f"--name={request.job_id}", fields], ASK_TIME)
        if done.returncode:
            return FoundJob(job="", failed=_message(done))
        number = _queued(done.stdout, request.comment) or _accounted(request)
        if number:
            replace_file(batch.submitted, canonical(Submitted(job=number)))
        return FoundJob(job=number)

    def request_cancel(self, request: RequestCancel) -> int:
        """Write the request into the batch folder and the folders of nodes."""
        paths = self._paths(request.job_id)
        nodes = sorted(paths.attempt(request.generation, request.attempt).glob("node-*"))
        batch = paths.batch(request.generation, request.base)
        for folder in (batch.root, *nodes):
            with contextlib.suppress(FileNotFoundError):
                request.cancel.write(folder / batch.cancel.name)
        return len(nodes)

    def delete_credentials(self, request: DeleteCredentials) -> None:
        """Delete the credentials of all attempts up to one."""
        paths = self._paths(request.job_id)
        for entry in claim_chain.entries(paths):
            if (entry.generation, entry.base) <= (request.generation, request.attempt):
                nodes = paths.attempt(entry.generation, entry.attempt).glob("node-*")
                _delete_secrets(paths.batch(entry.generation, entry.base), *(NodePaths(root=folder) for folder in nodes))

    def remove_job(self, request: RemoveJob) -> bool:
        """Delete a job's folder, unless another claim has followed."""
        paths = self._paths(request.job_id)
        if claim_chain.next_number(paths) != request.number:
            return False
        shutil.rmtree(paths.job, ignore_errors=True)
        return True


def _job_files(paths: JobPaths) -> JobFiles:
    number, entries = claim_chain.next_number(paths), claim_chain.entries(paths)
    if not entries:
        return JobFiles(next_number=number)
    owner, batches = entries[-1], [paths.batch(entry.generation, entry.base) for entry in entries]
    return JobFiles(
        next_number=number,
        entries=entries,
        batches={batch.root.name: _batch_record(batch) for batch in batches},
        age=max(0.0, time.time() - paths.claim.stat().st_mtime),
        end=read_end(paths.node(owner.generation, owner.attempt, 0).events),
    )


def _batch_record(batch: BatchPaths) -> BatchRecord:
    return BatchRecord(
        submitted=_read(Submitted, batch.submitted), cancel=_read(CancelRequest, batch.cancel), output=_output(batch.output)
    )


def withdraw(paths: JobPaths, number: int, batch: BatchPaths, reason: str) -> None:
    """Delete a claim that came to no job; a claim that follows others stays, with the reason."""
    if number == 0 and claim_chain.next_number(paths) == 1:
        shutil.rmtree(paths.job, ignore_errors=True)
        return
    _delete_secrets(batch)
    replace_file(batch.submitted, canonical(Submitted(job="", refused=reason)))


def _queued(out: str, comment: str) -> str:
    found = [line[:NUMBER].strip() for line in out.splitlines() if line[NUMBER:].strip() == comment]
    return found[-1] if found else ""


def _accounted(request: FindJob) -> str:
    argv = [request.sacct, "-X", "-n", "-P", f"--name={request.job_id}", "--starttime=now-7days"]
    rows = [line.partition("|") for line in _run([*argv, "--format=JobIDRaw,Comment"], ASK_TIME).stdout.splitlines()]
    found = [number for number, _, comment in rows if comment == request.comment]
    return found[-1] if found else ""


def _delete_secrets(*places: BatchPaths | NodePaths) -> None:
    for place in places:
        for file in (place.access, place.secrets):
            file.unlink(missing_ok=True)


def _run(argv: list[str], limit: float) -> subprocess.CompletedProcess[str]:
    kept = replies.without_output_settings(os.environ)
    env = {name: value for name, value in kept.items() if name in INHERITED or name.startswith("LC_")}
    nothing = subprocess.DEVNULL
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=limit, check=False, env=env, stdin=nothing
        )
    except FileNotFoundError:
        text = f"there is no {argv[0]} on this machine's PATH; name the folder of Slurm's commands by bin"
        return subprocess.CompletedProcess(argv, 127, "", text)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, replies.TIMED_OUT, "", f"{argv[0]} did not end within {limit:g} s")


def _message(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stderr or done.stdout).split())


def _read(kind: type[T], file: Path) -> T | None:
    try:
        return from_data(kind, json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _output(log: Path) -> str:
    """Return the end of a batch job's output in one line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - OUTPUT_TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return " | ".join(line.strip() for line in lines[-OUTPUT_LINES:] if line.strip())


def _write_all(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, mode=0o700)
    for name, content in files.items():
        write_private(folder / name, base64.b64decode(content))
