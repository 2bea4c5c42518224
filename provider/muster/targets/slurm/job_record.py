"""Known: what the shared folder of a cluster has of a job: its owners so far, the numbers of its batch jobs, how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from muster.core.attempt import AttemptId
from muster.core.codec import from_data
from muster.core.errors import UnknownRun
from muster.core.event import Event
from muster.core.handle import JobHandle
from muster.targets.claim import Claim


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """``data`` as ``slurm-desk look`` gives it. The ``base`` of an attempt is that which its batch job was submitted for."""

    job_id: str
    data: dict[str, Any]

    @property
    def next_number(self) -> int:
        """The number of the next claim."""
        return int(self.data["number"])

    @property
    def claim(self) -> Claim | None:
        """The owner, None if there is none."""
        return self._claims[-1][0] if self._claims else None

    @property
    def owner(self) -> Claim:
        """The owner.

        :raises UnknownRun: nobody owns the job.
        """
        if self.claim is None:
            raise UnknownRun(
                f"no run {self.job_id!r} in the shared folder of the cluster; `muster ls` lists those in the store"
            )
        return self.claim

    @property
    def owner_base(self) -> int:
        return self._claims[-1][1]

    @property
    def end(self) -> Event | None:
        """The END event of the owner's leader, None if it has not been written."""
        if self.data["end"] is None:
            return None
        data = dict(self.data["end"])
        return Event(time=data.pop("t"), kind=data.pop("k"), node=data.pop("n"), data=data)

    @property
    def submitted(self) -> dict[str, str] | None:
        """What came of the owner's submit: ``job``, its number; "" with ``refused``; None while nobody has written it down."""
        return self._submitted(self.owner.generation, self.owner_base)

    @property
    def nodes(self) -> int:
        return self.owner.nodes

    # -- of an attempt that a handle names

    def base(self, handle: JobHandle) -> int:
        """Give the base of a handle's attempt.

        :raises UnknownRun: there never was one.
        """
        for claim, base in reversed(self._claims):
            if claim.id == handle.id:
                return base
        which = f"attempt {handle.attempt} of run {self.job_id!r}, generation {handle.generation}"
        raise UnknownRun(f"there is no {which}, in the shared folder of the cluster")

    def latest(self, base: int, generation: int) -> int:
        """Give the last attempt that came of a batch job."""
        return max(c.attempt for c, of in self._claims if of == base and c.generation == generation)

    def number(self, handle: JobHandle) -> str:
        """Give the number of the batch job of a handle's attempt.

        :raises UnknownRun: Slurm never took it.
        """
        submitted = self._submitted(handle.generation, self.base(handle)) or {}
        if not submitted.get("job"):
            raise UnknownRun(f"attempt {handle.attempt} of run {self.job_id!r} never became a Slurm job")
        return str(submitted["job"])

    def wish(self, handle: JobHandle) -> dict[str, str] | None:
        """Give the end that somebody asked for, None if nobody did."""
        found: dict[str, str] | None = self.data["wishes"].get(self._batch(handle.generation, self.base(handle)))
        return found

    def said(self, handle: JobHandle) -> str:
        """Give the last that the batch job of a handle's attempt said."""
        return str(self.data["said"].get(self._batch(handle.generation, self.base(handle))) or "")

    def _submitted(self, generation: int, base: int) -> dict[str, str] | None:
        found: dict[str, str] | None = self.data["numbers"].get(self._batch(generation, base))
        return found

    def _batch(self, generation: int, base: int) -> str:
        return AttemptId(self.job_id, generation, base).folder

    @property
    def _claims(self) -> list[tuple[Claim, int]]:
        return [(from_data(Claim, entry["claim"]), int(entry["base"])) for entry in self.data["entries"]]
