"""Client of the queue server on the inventory's first host; concurrent look-ups share one request."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from muster.core.attempt import AttemptId
from muster.core.codec import from_data, to_data
from muster.core.event import Event
from muster.node.host import queue_control
from muster.node.host.gang_scheduler import QueueEntry, ResourceRequest
from muster.node.host.queue_control import (
    AdvanceQueue,
    ClaimAttempt,
    DeleteJob,
    QueuedAttempt,
    ReadAttempts,
    ReadQueued,
    Withdraw,
)
from muster.node.rpc import Request
from muster.targets.claim import Claim
from muster.targets.hosts import host_files
from muster.targets.hosts.connection import HostConnection
from muster.targets.ssh.inventory import Inventory

A = TypeVar("A")


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """State of a job in the queue. ``live``: the entry is in the queue; ``end``: of an attempt without agents."""

    claim: Claim | None = None
    entry: QueueEntry | None = None
    live: bool = False
    end: Event | None = None

    @classmethod
    def of(cls, answer: QueuedAttempt) -> QueuedJob:
        """Return the job in an answer."""
        claim = from_data(Claim, answer.claim) if answer.claim else None
        return cls(claim=claim, entry=answer.entry, live=answer.live, end=answer.end)


class QueueClient:
    """Lives in the background loop."""

    def __init__(self, inventory: Inventory, connection: HostConnection) -> None:
        self.inventory = inventory
        self.connection = connection
        self._wanted: dict[AttemptId, list[asyncio.Future[QueuedJob]]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def ask(self, request: Request[A]) -> A:
        """Return the queue server's answer."""
        return await self.connection.ask(queue_control.PART, request)

    async def inspect(self, wanted: AttemptId) -> QueuedJob:
        """Return what is known of an attempt, generation 0 for the claimed one; concurrent questions share one request."""
        answer: asyncio.Future[QueuedJob] = asyncio.get_running_loop().create_future()
        self._wanted.setdefault(wanted, []).append(answer)
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(self._read())
        return await answer

    async def _read(self) -> None:
        while self._wanted:
            wanted, self._wanted = self._wanted, {}
            try:
                answers = [QueuedJob.of(answer) for answer in await self.ask(ReadQueued(attempts=tuple(wanted)))]
            except Exception as error:
                _resolve(wanted, error)
            else:
                _resolve(wanted, answers)

    async def claim(self, claim: Claim, before: Claim | None, resources: ResourceRequest) -> QueueEntry | None:
        """Claim an attempt if the job is still owned as ``before``; return None if it is not."""
        request = ClaimAttempt(
            id=claim.id,
            expected=before.id if before else None,
            claim=to_data(claim),
            resources=resources,
            hosts=self.inventory.capacity,
        )
        return await self.ask(request)

    async def advance(self, wanted: Sequence[AttemptId], ended: Sequence[AttemptId]) -> tuple[list[QueueEntry], float]:
        """Advance the queue; return its entries and the time on the queue server."""
        request = AdvanceQueue(hosts=self.inventory.capacity, wanted=tuple(wanted), ended=tuple(ended))
        state = await self.ask(request)
        return list(state.entries), state.now

    async def attempts(self, job_id: str) -> list[QueueEntry]:
        """Return the entries of all attempts of a job."""
        entries = await self.ask(ReadAttempts(job_id=job_id))
        return list(entries)

    async def withdraw(self, entry: QueueEntry, end: Event, launcher: str = "") -> tuple[bool, bool]:
        """End an attempt whose launch has not begun; return whether it ended, and if not, whether a launcher has a lease.

        ``launcher``: who has the lease, and has ended whatever was begun.
        """
        reply = await self.ask(Withdraw(id=entry.id, end=end, launcher=launcher))
        return reply.withdrawn, reply.leased

    async def delete(self, job_id: str) -> None:
        """Delete all that is known of a job."""
        await self.ask(DeleteJob(job_id=job_id))

    async def put_bundle(self, job_id: str, files: Mapping[str, tuple[bytes, int]]) -> str:
        """Store what an attempt is launched with; return the folder."""
        host = await self.connection.info()
        folder = f"{host.root}/jobs/{job_id}/bundle-{secrets.token_hex(6)}"
        await self.connection.use(lambda shell: host_files.write_files(shell, folder, files, host.python))
        return folder

    async def delete_bundle(self, folder: str) -> None:
        """Delete a launch bundle that nobody will launch."""
        await self.connection.use(lambda shell: shell.run(["rm", "-rf", "--", folder]))


def _resolve(wanted: dict[AttemptId, list[asyncio.Future[QueuedJob]]], answers: list[QueuedJob] | Exception) -> None:
    for number, futures in enumerate(wanted.values()):
        for future in futures:
            if future.done():
                continue
            if isinstance(answers, Exception):
                future.set_exception(answers)
            else:
                future.set_result(answers[number])
