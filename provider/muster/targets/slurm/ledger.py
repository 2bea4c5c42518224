"""Slurm ledger: claims are files on the shared folder, each with a number that only one can take; attempts are batch jobs."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from muster.core.codec import canonical, to_data
from muster.core.errors import RequestError, TargetError
from muster.core.handle import JobHandle
from muster.core.paths import JobPaths
from muster.core.plan import JobPlan
from muster.core.retry import Backoff
from muster.core.verdict import Cause
from muster.node.assignment import Assignment
from muster.node.cancel_request import CancelRequest
from muster.node.slurm import rendezvous
from muster.node.slurm.claim_chain import ChainEntry
from muster.node.slurm.job_control import (
    DeleteCredentials,
    FindJob,
    ReadJobs,
    ReadTemplate,
    RemoveJob,
    RequestCancel,
    SubmitJob,
)
from muster.node.slurm.replies import SubmitOutcome
from muster.targets.claim import Claim, status_of
from muster.targets.contract import Submission
from muster.targets.hosts import cache
from muster.targets.hosts.background import in_background
from muster.targets.lifecycle import Ledger, Standing, Timing
from muster.targets.slurm import query
from muster.targets.slurm.batch_script import Batch, comment_of, submit_error
from muster.targets.slurm.cluster import Cluster
from muster.targets.slurm.job_record import JobRecord
from muster.targets.slurm.query import Partition, SlurmJobStatus
from muster.targets.slurm.states import HOPELESS, NODE_LIMIT, UNSEEN

SUBMIT_TIME = 330.0  # seconds for sbatch and what is laid out before it
POLL_INTERVAL, SLOWEST = 0.3, 2.0
CA = "ca.pem"


@dataclass(frozen=True, kw_only=True)
class SlurmTiming(Timing):
    """Limits of waiting for Slurm, in seconds."""

    restarts: int = 0  # of one lost node; Slurm's own are enough
    not_responding: float = 30.0  # without an answer of Slurm, after which the run is shown as not responding
    answer: float = 60.0  # after its claim, in which a batch job's number must be written down or be found
    leave: float = 60.0  # for Slurm to end a job whose run has ended
    hard_end: float = 90.0  # for Slurm's own way to end a job
    first_status: float = 5.0  # in which Slurm's scheduler is to look at a new job


@dataclass(frozen=True, kw_only=True)
class SlurmStanding(Standing):
    """``record``: what the shared folder has of the job; ``number``: the owner's job in Slurm, "" if it has none."""

    record: JobRecord
    number: str = ""


@dataclass(frozen=True, kw_only=True)
class SlurmLedger(Ledger[SlurmStanding]):
    """Jobs of one cluster; works in the background loop, where ``cluster`` lives."""

    cluster: Cluster
    target: str
    timing: SlurmTiming = field(default_factory=SlurmTiming)

    @property
    def location(self) -> str:
        """Return where the claims are, for error messages."""
        return "the shared folder of the cluster"

    @in_background
    async def owner(self, job_id: str) -> Claim | None:
        """Return who owns the job."""
        return (await self._record(job_id)).claim

    @in_background
    async def plan_of(self, standing: SlurmStanding) -> JobPlan:
        """Return the plan of the owning attempt."""
        owner, base = standing.record.owner, standing.record.owner_base
        return (await self.cluster.ask(ReadTemplate(job_id=owner.job_id, generation=owner.generation, base=base))).plan

    @in_background
    async def delete(self, job_id: str, standing: SlurmStanding) -> None:
        """Delete the job's folder."""
        await self.cluster.ask(RemoveJob(job_id=job_id, number=standing.record.next_number))

    @in_background
    async def request_cancel(self, job_id: str, generation: int, reason: str) -> Claim | None:
        """Write a cancel request for the nodes of a generation that owns the job, also for those that are starting.

        Return the owner, None if the generation does not own the job.
        """
        record = await self._record(job_id)
        if record.claim is None or record.claim.generation != generation:
            return None
        if record.end is None or not rendezvous.is_final(record.end):
            await self._request_cancel(record, reason)
        return record.claim

    @in_background
    async def delete_credentials(self, last: Claim | JobHandle) -> None:
        """Delete the credentials of all attempts up to one that has ended; a job that never ran could not do so itself."""
        await self._delete_credentials(last)

    async def _record(self, job_id: str) -> JobRecord:
        files = await self.cluster.ask(ReadJobs(jobs=(job_id,)))
        return JobRecord(job_id=job_id, files=files[job_id])

    # -- what became of an attempt

    @in_background
    async def standing(self, job_id: str) -> SlurmStanding:
        """Return who owns the job and what became of that attempt."""
        record = await self._record(job_id)
        if record.claim is None:
            return SlurmStanding(record=record)
        number = await self._number(record)
        if not number:
            status = status_of(running=False, end=None, commit=record.claim.commit)
            return SlurmStanding(record=record, claim=record.claim, status=status)
        job_status = await self.cluster.status(number)
        end = (await self._record(job_id)).end
        if not job_status.state.over and end is not None and rendezvous.is_final(end):
            job_status = await self._left(number, self.timing.leave)
        status = status_of(running=not job_status.state.over, end=end, commit=record.claim.commit)
        return SlurmStanding(record=record, claim=record.claim, status=status, end=end, number=number)

    async def _number(self, record: JobRecord) -> str:
        """Return the number of the owner's Slurm job, found by its name if it was not written down; "" if there is none."""
        claim, base = record.owner, record.owner_base
        deadline = time.monotonic() + self.timing.answer - record.files.age
        while (submitted := record.submitted) is None:
            request = FindJob(
                job_id=claim.job_id,
                comment=comment_of(replace(claim, attempt=base)),
                generation=claim.generation,
                base=base,
                squeue=self.cluster.options.command("squeue"),
                sacct=self.cluster.options.command("sacct"),
            )
            found = await self.cluster.ask(request)
            if found.failed:
                raise TargetError(f"squeue on {self.cluster.connection.host.name} failed: {found.failed}")
            if found.job:
                return found.job
            if time.monotonic() > deadline:
                return ""
            await asyncio.sleep(POLL_INTERVAL)
            record = await self._record(record.job_id)
            if record.claim is None:
                return ""
        return submitted.job

    async def _left(self, number: str, limit: float) -> SlurmJobStatus:
        """Wait until Slurm has released a job."""
        deadline, backoff = time.monotonic() + limit, Backoff(POLL_INTERVAL, SLOWEST, factor=1.3)
        while not (status := await self.cluster.status(number)).state.over and time.monotonic() < deadline:
            await asyncio.sleep(backoff.next())
        return status

    # -- the end

    @in_background
    async def end(self, standing: SlurmStanding, reason: str) -> None:
        """End the run by its agents; withdraw a job that waits, and let Slurm end a job that does not leave."""
        record, number = standing.record, standing.number
        claim = record.owner
        await self._request_cancel(record, reason)
        await self.cluster.command(["scancel", "--state=PENDING", number])
        deadline = time.monotonic() + claim.grace + self.timing.kill_slack
        backoff = Backoff(POLL_INTERVAL, SLOWEST, factor=1.5)
        while not (status := await self.cluster.status(number)).state.over and time.monotonic() < deadline:
            # to the nodes' tasks, not to the script, and again: they may only just be starting
            await self.cluster.command(["scancel", "--signal=TERM", number])
            await asyncio.sleep(backoff.next())
        if not status.state.over:
            await self.cluster.command(["scancel", number])
            status = await self._left(number, self.timing.hard_end)
        if not status.state.over:
            raise TargetError(
                f"run {claim.job_id}: Slurm job {number} could not be ended, it is {status.name}; see scontrol show job"
            )
        await self._delete_credentials(claim)

    async def _request_cancel(self, record: JobRecord, reason: str) -> None:
        owner, cancel = record.owner, CancelRequest(cause=Cause.CANCEL, reason=reason)
        request = RequestCancel(
            job_id=owner.job_id, generation=owner.generation, base=record.owner_base, attempt=owner.attempt, cancel=cancel
        )
        await self.cluster.ask(request)

    async def _delete_credentials(self, last: Claim | JobHandle) -> None:
        request = DeleteCredentials(job_id=last.job_id, generation=last.generation, attempt=last.attempt)
        await self.cluster.ask(request)

    # -- launching

    @in_background
    async def launch(self, claim: Claim, before: SlurmStanding, submission: Submission) -> bool:
        """Claim the next number, and submit the batch job.

        :raises RequestError: Slurm refuses the job, or could never start it; nothing is left.
        :raises TargetError: Slurm can't take it now, or did not answer; in that case the claim stays.
        """
        host, connection = await self.cluster.connection.info(), self.cluster.connection
        paths = JobPaths(root=Path(host.root), job_id=claim.job_id).batch(claim.generation, claim.attempt)
        batch = Batch(
            claim=claim,
            plan=submission.plan,
            paths=paths,
            options=self.cluster.options,
            start=f"{host.root}/{cache.agent_name()}/{cache.START}",
            python=connection.host.python,
        )
        archive = ""
        if submission.archive is not None:
            packed = submission.archive
            archive = await connection.use(lambda shell: cache.ensure_archive(shell, host.root, packed, host.python))
        files = _files(batch, submission, self._template(batch, submission, archive, host.root))
        entry, number = ChainEntry(claim=to_data(claim), base=claim.attempt), before.record.next_number
        request = SubmitJob(job_id=claim.job_id, number=number, entry=entry, files=files, argv=tuple(batch.argv()))
        reply = await self.cluster.ask(request, limit=SUBMIT_TIME)
        if not reply.won:
            return False
        if reply.outcome is not SubmitOutcome.TAKEN:
            raise submit_error(claim.job_id, reply.outcome, reply.message)
        await self._refuse_hopeless(claim, number + 1, reply.job)
        return True

    async def _refuse_hopeless(self, claim: Claim, next_number: int, number: str) -> None:
        status = await self._first_status(number)
        why = HOPELESS.get(status.reason) if status.state.waits else None
        partition = await self._partition() if why else None
        if why is None or (status.reason == NODE_LIMIT and partition is not None and partition.fits(claim.nodes)):
            return
        await self.cluster.command(["scancel", number])
        await self._left(number, self.timing.hard_end)
        await self._delete_credentials(claim)
        if next_number == 1:
            await self.cluster.ask(RemoveJob(job_id=claim.job_id, number=next_number))
        what = f"Slurm would never start run {claim.job_id}: it asks for {why} ({status.reason})"
        has = f"; {partition}" if partition is not None else ""
        raise RequestError(f"{what}{has}; ask for less, or choose another partition")

    async def _first_status(self, number: str) -> SlurmJobStatus:
        """Return the status of a new job, once Slurm's scheduler has seen it."""
        deadline = time.monotonic() + self.timing.first_status
        while (
            (status := await self.cluster.status(number)).state.waits
            and status.reason in UNSEEN
            and time.monotonic() < deadline
        ):
            await asyncio.sleep(POLL_INTERVAL)
        return status

    async def _partition(self) -> Partition | None:
        wanted = self.cluster.options.partition
        done = await self.cluster.command(query.partitions_command(wanted))
        return query.parse_partition(done.out.decode(errors="replace"), wanted) if done.code == 0 else None

    def _template(self, batch: Batch, submission: Submission, archive: str, root: str) -> Assignment:
        claim, plan = batch.claim, submission.plan
        environment = cache.environment_name(plan.environment)
        return claim.assignment(
            plan,
            0,
            requested=submission.requested,
            target=self.target,
            addresses=("",) * claim.nodes,
            deadline=0.0,
            interpreter=plan.environment.interpreter or (f"{root}/{environment}/bin/python" if environment else ""),
            muster_python="",
            archive=archive,
        )


def _files(batch: Batch, submission: Submission, template: Assignment) -> dict[str, str]:
    """Return the files of the batch folder, in base64."""
    from muster.packaging import certificate

    paths, access = batch.paths, submission.access
    files = {
        paths.template.name: canonical(template),
        paths.script.name: batch.script().encode(),
        paths.certificate.name: certificate.make_certificate(),
    }
    if access.verify and Path(access.verify).is_file():
        files[CA] = Path(access.verify).read_bytes()
        access = replace(access, verify=str(paths.root / CA))
    files[paths.access.name] = canonical(access)
    if submission.secrets:
        files[paths.secrets.name] = json.dumps(submission.secrets).encode()
    return {name: base64.b64encode(content).decode() for name, content in files.items()}
