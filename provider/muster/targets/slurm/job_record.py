"""Record of a job in a cluster's shared folder: its claims, their Slurm jobs, and the end of the last attempt."""

from __future__ import annotations

from dataclasses import dataclass

from muster.core.attempt import AttemptId
from muster.core.codec import from_data
from muster.core.errors import UnknownRun
from muster.core.event import Event
from muster.core.handle import JobHandle
from muster.node.cancel_request import CancelRequest
from muster.node.slurm.job_control import BatchRecord, JobFiles, Submitted
from muster.targets.claim import Claim


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job's files. The ``base`` of an attempt is the attempt that its batch job was submitted for."""

    job_id: str
    files: JobFiles

    @property
    def next_number(self) -> int:
        """Return the number of the next claim."""
        return self.files.next_number

    @property
    def claim(self) -> Claim | None:
        """Return the owner, None if there is none."""
        return self._claims[-1][0] if self._claims else None

    @property
    def owner(self) -> Claim:
        """Return the owner.

        :raises UnknownRun: nobody owns the job.
        """
        if self.claim is None:
            raise UnknownRun(
                f"no run {self.job_id!r} in the shared folder of the cluster; `muster ls` lists those in the store"
            )
        return self.claim

    @property
    def owner_base(self) -> int:
        """Return the base of the owner."""
        return self._claims[-1][1]

    @property
    def end(self) -> Event | None:
        """Return the END event of the owner's leader, None if it has not been written."""
        return self.files.end

    @property
    def submitted(self) -> Submitted | None:
        """Return what came of the owner's submit, None while nobody has written it down."""
        batch = self._batch(self.owner.generation, self.owner_base)
        return batch.submitted if batch is not None else None

    @property
    def nodes(self) -> int:
        """Return the number of the job's nodes."""
        return self.owner.nodes

    # -- of an attempt that a handle names

    def base(self, handle: JobHandle) -> int:
        """Return the base of a handle's attempt.

        :raises UnknownRun: there never was such an attempt.
        """
        for claim, base in reversed(self._claims):
            if claim.id == handle.id:
                return base
        which = f"attempt {handle.attempt} of run {self.job_id!r}, generation {handle.generation}"
        raise UnknownRun(f"there is no {which}, in the shared folder of the cluster")

    def latest(self, base: int, generation: int) -> int:
        """Return the last attempt that came of a batch job."""
        return max(c.attempt for c, of in self._claims if of == base and c.generation == generation)

    def number(self, handle: JobHandle) -> str:
        """Return the number of the Slurm job of a handle's attempt.

        :raises UnknownRun: Slurm never took it.
        """
        batch = self._batch(handle.generation, self.base(handle))
        if batch is None or batch.submitted is None or not batch.submitted.job:
            raise UnknownRun(f"attempt {handle.attempt} of run {self.job_id!r} never became a Slurm job")
        return batch.submitted.job

    def cancel_request(self, handle: JobHandle) -> CancelRequest | None:
        """Return the cancel request of a handle's attempt, None if there is none."""
        batch = self._batch(handle.generation, self.base(handle))
        return batch.cancel if batch is not None else None

    def output(self, handle: JobHandle) -> str:
        """Return the end of the output of a handle's batch job."""
        batch = self._batch(handle.generation, self.base(handle))
        return batch.output if batch is not None else ""

    def _batch(self, generation: int, base: int) -> BatchRecord | None:
        return self.files.batches.get(AttemptId(self.job_id, generation, base).folder)

    @property
    def _claims(self) -> list[tuple[Claim, int]]:
        return [(from_data(Claim, entry.claim), entry.base) for entry in self.files.entries]
