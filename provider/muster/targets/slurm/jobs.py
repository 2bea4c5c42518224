"""Jobs of a cluster: get or create, end, commit; the rules of the claim over what the shared folder and Slurm know."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

from muster.core.codec import canonical, to_data
from muster.core.errors import RequestError, TargetError
from muster.core.event import Event
from muster.core.handle import JobHandle, SubmitResult
from muster.core.paths import JobPaths
from muster.core.store_access import StoreAccess
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
from muster.targets.claim import Claim, Found, Step, found_of, next_claim, next_step
from muster.targets.contract import Submission
from muster.targets.hosts import cache
from muster.targets.slurm import query
from muster.targets.slurm.batch_script import Batch, comment_of, submit_error
from muster.targets.slurm.cluster import Cluster
from muster.targets.slurm.job_record import JobRecord
from muster.targets.slurm.query import Partition, SlurmJobStatus
from muster.targets.slurm.states import HOPELESS, NODE_LIMIT, UNSEEN

SUBMIT_TIME = 330.0  # seconds for sbatch and what is laid out before it
ANSWER_TIME = 60.0  # seconds after its claim in which a batch job's number must be written down or be found
LEAVE_TIME = 60.0  # seconds for Slurm to let go of a job whose run has ended
KILL_SLACK = 45.0  # seconds beyond the grace in which cancelled agents must have left
HARD_END = 90.0  # seconds for Slurm's own way to end a job
FIRST_LOOK = 5.0  # seconds in which Slurm's scheduler is to look at a new job
PAUSE, SLOWEST = 0.3, 2.0
CA = "ca.pem"


@dataclass(frozen=True, kw_only=True)
class Became:
    """What became of the attempt that owns a job: its number in Slurm ("" if it has none) and its END."""

    found: Found
    number: str = ""
    end: Event | None = None


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """All work is done in the background loop, where ``cluster`` lives."""

    cluster: Cluster
    target: str

    async def known(self, job_id: str) -> JobRecord:
        """Give what the shared folder has of a job."""
        files = await self.cluster.ask(ReadJobs(jobs=(job_id,)))
        return JobRecord(job_id=job_id, files=files[job_id])

    async def submit(self, submission: Submission) -> JobHandle:
        """Get or create the job."""
        digest = submission.plan.digest()
        while True:
            known = await self.known(submission.job_id)
            became = await self.became(known)
            step = next_step(known.claim, became.found if became else None, submission.generation, digest)
            if step in (Step.ATTACH, Step.TAKE):
                return known.owner.handle(self.target, SubmitResult.ATTACHED if step is Step.ATTACH else SubmitResult.COMPLETED)
            if became is not None and became.found is Found.RUNNING:
                await self.end(known, became.number, "replaced by a newer submit")
                known = await self.known(submission.job_id)
            end = known.end if known.claim is not None else None
            claim = next_claim(known.claim, end, step, submission, digest)
            if await self._launch(known, claim, submission, commit=step is Step.COMMIT):
                return claim.handle(self.target, SubmitResult.LAUNCHED)

    async def cancel(self, handle: JobHandle, generation: int, reason: str) -> bool:
        """End the job if the generation owns it."""
        known = await self.known(handle.job_id)
        if known.claim is None or known.claim.generation != generation:
            return False
        if known.end is None or not rendezvous.is_final(known.end):
            await self._wish(known, reason)  # before Slurm is asked, who may be away: nodes that start meanwhile end by it
        became = await self.became(known)
        if became is None or became.found is not Found.RUNNING:
            await self.forget(known.claim)
            return False
        await self.end(known, became.number, reason)
        return True

    async def commit(self, handle: JobHandle, access: StoreAccess) -> JobHandle:
        """Submit a job that only stores what a completed run left."""
        known = await self.known(handle.job_id)
        claim, became = known.owner, await self.became(known)
        if became is None or became.found is not Found.UNCOMMITTED:
            raise TargetError(f"run {handle.job_id} has nothing to commit: it is {became.found.value if became else 'unknown'}")
        request = ReadTemplate(job_id=handle.job_id, generation=claim.generation, base=known.owner_base)
        template = await self.cluster.ask(request)
        submission = Submission(
            job_id=claim.job_id,
            generation=claim.generation,
            plan=template.plan,
            archive=None,
            access=access,
            requested=time.time(),
        )
        following = next_claim(claim, known.end, Step.COMMIT, submission, claim.plan_digest)
        if not await self._launch(known, following, submission, commit=True):
            raise TargetError(f"run {handle.job_id} has just been taken by another submit; watch that one")
        return following.handle(self.target, SubmitResult.LAUNCHED)

    # -- what became of an attempt

    async def became(self, known: JobRecord) -> Became | None:
        """Say what became of the owner: liveness first, then its END, never the other way round. None if there is no owner."""
        if known.claim is None:
            return None
        number = await self._number(known)
        if not number:
            return Became(found=found_of(running=False, end=None, commit=known.claim.commit))
        told = await self.cluster.told(number)
        end = (await self.known(known.job_id)).end
        if not told.state.over and end is not None and rendezvous.is_final(end):
            told = await self._left(number, LEAVE_TIME)
        found = found_of(running=not told.state.over, end=end, commit=known.claim.commit)
        return Became(found=found, number=number, end=end)

    async def _number(self, known: JobRecord) -> str:
        """Give the number of the owner's batch job; if it was not written down, it is found by its name, or there is none."""
        claim, base, give_up = known.owner, known.owner_base, time.monotonic() + ANSWER_TIME - known.files.age
        while (submitted := known.submitted) is None:
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
            if time.monotonic() > give_up:
                return ""
            await asyncio.sleep(PAUSE)
            known = await self.known(known.job_id)
            if known.claim is None:
                return ""
        return submitted.job

    async def _left(self, number: str, limit: float) -> SlurmJobStatus:
        """Wait until Slurm has let go of a job."""
        give_up, pause = time.monotonic() + limit, PAUSE
        while not (told := await self.cluster.told(number)).state.over and time.monotonic() < give_up:
            await asyncio.sleep(pause)
            pause = min(pause * 1.3, SLOWEST)
        return told

    # -- the end

    async def end(self, known: JobRecord, number: str, reason: str) -> None:
        """Have the agents end the run; a job that waits is withdrawn, one that does not leave is ended by Slurm.

        :raises TargetError: it is still there after that.
        """
        claim = known.owner
        await self._wish(known, reason)
        await self.cluster.command(["scancel", "--state=PENDING", number])
        give_up, pause = time.monotonic() + claim.grace + KILL_SLACK, PAUSE
        while not (told := await self.cluster.told(number)).state.over and time.monotonic() < give_up:
            # to the nodes' tasks, not to the script, and again: they may only just be starting
            await self.cluster.command(["scancel", "--signal=TERM", number])
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, SLOWEST)
        if not told.state.over:
            await self.cluster.command(["scancel", number])
            told = await self._left(number, HARD_END)
        if not told.state.over:
            raise TargetError(
                f"run {claim.job_id}: Slurm job {number} could not be ended, it is {told.name}; see scontrol show job"
            )
        await self.forget(claim)

    async def _wish(self, known: JobRecord, reason: str) -> None:
        """Leave the wish to end where the owner's nodes look for it, those too that are only starting."""
        owner, cancel = known.owner, CancelRequest(cause=Cause.CANCEL, reason=reason)
        request = RequestCancel(
            job_id=owner.job_id, generation=owner.generation, base=known.owner_base, attempt=owner.attempt, cancel=cancel
        )
        await self.cluster.ask(request)

    async def forget(self, last: Claim | JobHandle) -> None:
        """Remove the credentials of all attempts up to one that has ended; a job that never ran could not do so itself."""
        request = DeleteCredentials(job_id=last.job_id, generation=last.generation, attempt=last.attempt)
        await self.cluster.ask(request)

    # -- launching

    async def _launch(self, known: JobRecord, claim: Claim, submission: Submission, *, commit: bool) -> bool:
        """Claim and submit; False if somebody was faster.

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
            commit=commit,
        )
        archive = ""
        if submission.archive is not None:
            packed = submission.archive
            archive = await connection.use(lambda shell: cache.ensure_archive(shell, host.root, packed, host.python))
        files = _files(batch, submission, self._template(batch, submission, archive, host.root))
        entry = ChainEntry(claim=to_data(claim), base=claim.attempt)
        request = SubmitJob(job_id=claim.job_id, number=known.next_number, entry=entry, files=files, argv=tuple(batch.argv()))
        reply = await self.cluster.ask(request, limit=SUBMIT_TIME)
        if not reply.won:
            return False
        if reply.outcome is not SubmitOutcome.TAKEN:
            raise submit_error(claim.job_id, reply.outcome, reply.message)
        await self._refuse_hopeless(claim, known.next_number + 1, reply.job)
        return True

    async def _refuse_hopeless(self, claim: Claim, next_number: int, number: str) -> None:
        told = await self._first_look(number)
        why = HOPELESS.get(told.reason) if told.state.waits else None
        partition = await self._partition() if why else None
        if why is None or (told.reason == NODE_LIMIT and partition is not None and partition.takes(claim.nodes)):
            return
        await self.cluster.command(["scancel", number])
        await self._left(number, HARD_END)
        await self.forget(claim)
        if next_number == 1:
            await self.cluster.ask(RemoveJob(job_id=claim.job_id, number=next_number))
        what = f"Slurm would never start run {claim.job_id}: it asks for {why} ({told.reason})"
        has = f"; {partition}" if partition is not None else ""
        raise RequestError(f"{what}{has}; ask for less, or choose another partition")

    async def _first_look(self, number: str) -> SlurmJobStatus:
        """Give what Slurm says of a new job, once its scheduler has looked at it."""
        give_up = time.monotonic() + FIRST_LOOK
        while (told := await self.cluster.told(number)).state.waits and told.reason in UNSEEN and time.monotonic() < give_up:
            await asyncio.sleep(PAUSE)
        return told

    async def _partition(self) -> Partition | None:
        wanted = self.cluster.options.partition
        done = await self.cluster.command(query.partitions(wanted))
        return query.partition_of(done.out.decode(errors="replace"), wanted) if done.code == 0 else None

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
    """Give the files beside the node folders, as they travel."""
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
