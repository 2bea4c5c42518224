"""ClaimPlace: the keeper on the inventory's first host, asked for claims and the queue; many jobs' looks go in one question."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

from muster.core.attempt import AttemptId
from muster.core.codec import from_data, to_data
from muster.core.event import Event
from muster.node.host import gang_scheduler
from muster.node.host.gang_scheduler import GRANTED, STARTING, WAITING
from muster.node.rpc import Request
from muster.targets.claim import Claim
from muster.targets.hosts import host_files
from muster.targets.hosts.connection import HostConnection
from muster.targets.ssh.inventory import Inventory


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """One node's part of what an attempt holds; ``folder`` is "" until its agent is about to be started."""

    host: str
    gpus: tuple[str, ...] = ()
    folder: str = ""


@dataclass(frozen=True, kw_only=True)
class QueueEntry:
    """An attempt in the queue; the fields are the keeper's."""

    number: int
    job: str
    generation: int
    attempt: int
    nodes: int
    slots: int
    gpus: int
    state: str
    bundle: str = ""
    allocations: tuple[Allocation, ...] = ()
    held: tuple[str, ...] = ()
    excluded: dict[str, str]
    launch: int = 0
    until: float = 0.0
    over: float = 0.0

    @property
    def id(self) -> AttemptId:
        """Return the attempt's name."""
        return AttemptId(self.job, self.generation, self.attempt)

    @property
    def is_fixed(self) -> bool:
        """Whether it stores what earlier ranks left on its hosts, and so goes nowhere else."""
        return gang_scheduler.is_fixed({"slots": self.slots})

    @property
    def holds(self) -> bool:
        """Whether hosts may have agents of it."""
        return self.state not in (WAITING, GRANTED)

    @property
    def is_over(self) -> bool:
        """Whether all its agents must have left, as their deadline has passed, also where nobody can be asked."""
        return bool(self.over) and time.time() > self.over

    def launchable(self, now: float) -> bool:
        """Whether its turn has come and nobody is at it."""
        return self.state in (GRANTED, STARTING) and self.until < now


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """What the claim place knows of a job. ``live``: the entry is still in the queue; ``end``: of one that never had agents."""

    claim: Claim | None = None
    entry: QueueEntry | None = None
    live: bool = False
    end: Event | None = None


class QueueClient:
    """Lives in the background loop."""

    def __init__(self, inventory: Inventory, connection: HostConnection) -> None:
        self.inventory = inventory
        self.connection = connection
        self._wanted: dict[AttemptId, list[asyncio.Future[QueuedJob]]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def look(self, wanted: AttemptId) -> QueuedJob:
        """Return what is known of an attempt, generation 0 for the claimed one; concurrent questions share one request."""
        answer: asyncio.Future[QueuedJob] = asyncio.get_running_loop().create_future()
        self._wanted.setdefault(wanted, []).append(answer)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        return await answer

    async def _look(self) -> None:
        while self._wanted:
            wanted, self._wanted = self._wanted, {}
            try:
                found = (await self._ask("look", jobs=[astuple(one) for one in wanted]))["found"]
            except Exception as error:
                _settle(wanted, error)
                continue
            _settle(wanted, [_seen(data) for data in found])

    async def claim(self, claim: Claim, before: Claim | None, wish: Mapping[str, Any]) -> QueueEntry | None:
        """Claim an attempt if the job is still owned as ``before``; None if it is not."""
        expected = [before.generation, before.attempt] if before else None
        answer = await self._ask(
            "claim", job=claim.job_id, expected=expected, claim=to_data(claim), wish=dict(wish), hosts=self.inventory.data
        )
        return from_data(QueueEntry, answer["entry"]) if answer["taken"] else None

    async def turn(self, wanted: list[AttemptId], settled: list[AttemptId]) -> tuple[list[QueueEntry], float]:
        """Have the queue go on; gives its entries and what time it is there."""
        keys = {"wanted": [astuple(one) for one in wanted], "settled": [astuple(one) for one in settled]}
        answer = await self._ask("turn", hosts=self.inventory.data, **keys)
        return [from_data(QueueEntry, entry) for entry in answer["entries"]], answer["now"]

    async def attempts(self, job: str) -> list[QueueEntry]:
        """Give the entries of all attempts of a job."""
        return [from_data(QueueEntry, entry) for entry in (await self._ask("attempts", job=job))["entries"]]

    async def withdraw(self, entry: QueueEntry, end: Event, launcher: str = "") -> tuple[bool, bool]:
        """End an attempt that nobody has begun to launch; says whether that was so, and if not, whether somebody is at it.

        ``launcher``: who has it, and has ended whatever was begun.
        """
        data = {"t": end.time, "k": end.kind, "n": end.node, **end.data}
        answer = await self._ask("withdraw", **_key(entry), end=data, launcher=launcher)
        return answer["withdrawn"], answer["leased"]

    async def forget(self, job: str) -> None:
        """Remove all that is known of a job."""
        await self._ask("forget", job=job)

    async def as_launcher(self, do: str, entry: QueueEntry, launcher: str, **fields: Any) -> dict[str, Any]:
        """Ask something that only the one who launches an attempt may ask."""
        return await self._ask(do, **_key(entry), launcher=launcher, **fields)

    async def put_bundle(self, job: str, files: Mapping[str, tuple[bytes, int]]) -> str:
        """Store what an attempt is launched with; gives the folder."""
        seen = await self.connection.info()
        folder = f"{seen.root}/jobs/{job}/bundle-{secrets.token_hex(6)}"
        await self.connection.use(lambda shell: host_files.write_files(shell, folder, files, seen.python))
        return folder

    async def delete_bundle(self, folder: str) -> None:
        """Remove a parcel that nobody will launch."""
        await self.connection.use(lambda shell: shell.run(["rm", "-rf", "--", folder]))

    async def _ask(self, do: str, **fields: Any) -> dict[str, Any]:
        return await self.connection.ask("queue-control", _Question({"do": do, **fields}))


class _Question(Request[dict[str, Any]]):
    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def encode(self) -> dict[str, Any]:
        return self._data

    @classmethod
    def decode_reply(cls, reply: Mapping[str, Any]) -> dict[str, Any]:
        return dict(reply)


def _key(entry: QueueEntry) -> dict[str, Any]:
    return {"job": entry.job, "generation": entry.generation, "attempt": entry.attempt}


def _seen(data: dict[str, Any]) -> QueuedJob:
    return QueuedJob(
        claim=from_data(Claim, data["claim"]) if data["claim"] else None,
        entry=from_data(QueueEntry, data["entry"]) if data["entry"] else None,
        live=bool(data["live"]),
        end=_event(data["end"]),
    )


def _event(data: dict[str, Any] | None) -> Event | None:
    if not data:
        return None
    rest = {name: value for name, value in data.items() if name not in ("t", "k", "n")}
    return Event(time=data["t"], kind=data["k"], node=data["n"], data=rest)


def _settle(wanted: dict[AttemptId, list[asyncio.Future[QueuedJob]]], found: list[QueuedJob] | Exception) -> None:
    for number, futures in enumerate(wanted.values()):
        for future in futures:
            if future.done():
                continue
            if isinstance(found, Exception):
                future.set_exception(found)
            else:
                future.set_result(found[number])
