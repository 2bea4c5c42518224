"""Queue server: an inventory's claims and queue, kept on its first host. One JSON request in, one reply out, under one lock.

An attempt that has ended leaves the queue; its last entry is kept beside the claim, with its end.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from muster.core.attempt import AttemptId
from muster.core.codec import canonical, from_data
from muster.core.event import Event
from muster.core.paths import HostPaths, check_file_name
from muster.node.host import gang_scheduler
from muster.node.host.gang_scheduler import GRANTED, LAUNCHED, STARTING, WAITING, HostCapacity, QueueEntry, ResourceRequest
from muster.node.private_files import replace_file
from muster.node.rpc import Commands, Message, OfJob, Reply, Request

PART = "queue-control"  # of start.py
LEASE = 45.0  # seconds after which a launcher that does not renew its lease counts as dead
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Queue:
    """The queue's file."""

    next: int = 1
    entries: tuple[QueueEntry, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EndedEntry:
    """The file of an attempt that has left the queue; ``end`` of an attempt that never had agents."""

    entry: QueueEntry
    end: Event | None


# -- requests


@dataclass(frozen=True, kw_only=True)
class QueuedAttempt:
    """Records of an attempt: the job's claim as data, the attempt's entry and end.

    ``live``: the entry is still in the queue.
    """

    claim: dict[str, Any] | None
    entry: QueueEntry | None
    live: bool
    end: Event | None


@dataclass(frozen=True, kw_only=True)
class ReadQueued(Request[tuple[QueuedAttempt, ...]]):
    """Return what is known of attempts; generation 0 names the attempt that owns the job."""

    attempts: tuple[AttemptId, ...]

    def __post_init__(self) -> None:
        for attempt in self.attempts:
            check_file_name(attempt.job_id)


@dataclass(frozen=True, kw_only=True)
class _OfAttempt:
    id: AttemptId

    def __post_init__(self) -> None:
        check_file_name(self.id.job_id)


@dataclass(frozen=True, kw_only=True)
class ClaimAttempt(Request[QueueEntry | None], _OfAttempt):
    """Claim a job's next attempt if its owner is still as ``expected``, and queue it; return None if another was faster."""

    expected: AttemptId | None
    claim: dict[str, Any]
    resources: ResourceRequest
    hosts: tuple[HostCapacity, ...]


@dataclass(frozen=True, kw_only=True)
class WithdrawReply:
    """Outcome of a withdrawal: whether the request ended the attempt, else whether a launcher holds a lease of it."""

    withdrawn: bool
    leased: bool = False


@dataclass(frozen=True, kw_only=True)
class Withdraw(Request[WithdrawReply], _OfAttempt):
    """End an attempt whose launch has not begun, or whose ``launcher`` asks for it."""

    end: Event
    launcher: str = ""


@dataclass(frozen=True, kw_only=True)
class ReadAttempts(Request[tuple[QueueEntry, ...]], OfJob):
    """Return the entries of all attempts of a job."""


@dataclass(frozen=True, kw_only=True)
class DeleteJob(Request[None], OfJob):
    """Delete all that is known of a job."""


@dataclass(frozen=True, kw_only=True)
class QueueState:
    """The queue's entries, and the time on the queue server."""

    entries: tuple[QueueEntry, ...]
    now: float


@dataclass(frozen=True, kw_only=True)
class AdvanceQueue(Request[QueueState]):
    """Record wanted and ended attempts, grant what fits, and return the queue."""

    hosts: tuple[HostCapacity, ...]
    wanted: tuple[AttemptId, ...] = ()
    ended: tuple[AttemptId, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _OfLauncher(_OfAttempt):
    launcher: str


@dataclass(frozen=True, kw_only=True)
class LaunchLease:
    """A launcher's lease of an attempt. ``waited``: seconds that the attempt was in the queue."""

    entry: QueueEntry
    claim: dict[str, Any]
    waited: float


@dataclass(frozen=True, kw_only=True)
class AcquireLease(Request[LaunchLease | None], _OfLauncher):
    """Acquire the lease to launch a granted attempt; None if it is taken, or another attempt owns the job."""


@dataclass(frozen=True, kw_only=True)
class RenewLease(Request[bool], _OfLauncher):
    """Renew a lease; return False when another launcher has it."""


@dataclass(frozen=True, kw_only=True)
class RecordStart(Request[bool], _OfLauncher):
    """Record node folders and the agents' deadline before the first agent starts; return False without a lease."""

    folders: tuple[str, ...]
    over: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FinishStart(Request[bool], _OfLauncher):
    """Record that all agents have started, and delete the launch bundle; return False without a lease."""


@dataclass(frozen=True, kw_only=True)
class ReturnReply:
    """The entry after its allocations were returned, and the hosts that could still take a node of it."""

    entry: QueueEntry
    able: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ReturnAllocations(Request[ReturnReply | None], _OfLauncher):
    """Return the allocations of a launch that failed on ``bad`` hosts; the gang keeps its place in the order."""

    bad: dict[str, str]
    hosts: tuple[HostCapacity, ...]


# -- the server


def main(arguments: list[str]) -> int:
    """Answer the request on the standard input; the argument is the root folder."""
    server = QueueServer(HostPaths.of(arguments[0]))
    with server.locked():
        reply = server.answer(sys.stdin.read())
    json.dump(reply, sys.stdout)
    return 0


class QueueServer:
    """Reads everything from the disk for each request, and writes it before the reply."""

    def __init__(self, paths: HostPaths, clock: Callable[[], float] = time.time) -> None:
        self._paths = paths
        self._now = clock()
        self._queue = Queue()
        self._commands = Commands(
            {
                ReadQueued: self._read_queued,
                ClaimAttempt: self._claim,
                Withdraw: self._withdraw,
                ReadAttempts: self._read_attempts,
                DeleteJob: self._delete_job,
                AdvanceQueue: self._advance,
                AcquireLease: self._acquire_lease,
                RenewLease: self._renew_lease,
                RecordStart: self._record_start,
                FinishStart: self._finish_start,
                ReturnAllocations: self._return_allocations,
            }
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the one lock, which the kernel releases if this process dies."""
        os.makedirs(self._paths.root, mode=0o700, exist_ok=True)
        descriptor = os.open(self._paths.queue_lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def answer(self, message: Message) -> Reply:
        """Return the reply to a request; the queue is written unless the request failed."""
        before = self._queue = _read(Queue, self._paths.queue) or Queue()
        reply = self._commands.answer(message)
        if "error" not in reply and self._queue != before:
            replace_file(self._paths.queue, canonical(self._queue))
        return reply

    # -- claims

    def _read_queued(self, request: ReadQueued) -> tuple[QueuedAttempt, ...]:
        return tuple(map(self._queued, request.attempts))

    def _queued(self, attempt: AttemptId) -> QueuedAttempt:
        claim = self._claim_of(attempt.job_id)
        if claim is not None and not attempt.generation:
            attempt = AttemptId(attempt.job_id, int(claim["generation"]), int(claim["attempt"]))
        entry, ended = self._entry(attempt), _read(EndedEntry, self._ended_file(attempt))
        return QueuedAttempt(
            claim=claim,
            entry=entry or (ended.entry if ended else None),
            live=entry is not None,
            end=ended.end if ended else None,
        )

    def _claim(self, request: ClaimAttempt) -> QueueEntry | None:
        """Claim an attempt; a request that is repeated, since its answer was lost, gets the same answer."""
        owner, resources = self._claim_of(request.id.job_id), request.resources
        ours = self._queued(request.id).entry if owner == request.claim else None
        if ours is not None and ours.bundle == resources.bundle:
            return ours
        if _id_of(owner) != request.expected:
            return None
        entry = QueueEntry(
            number=self._queue.next,
            job=request.id.job_id,
            generation=request.id.generation,
            attempt=request.id.attempt,
            nodes=resources.nodes,
            slots=resources.slots,
            gpus=resources.gpus,
            state=resources.state,
            bundle=resources.bundle,
            allocations=resources.allocations,
            since=self._now,
            seen=self._now,
            granted=self._now if resources.state == GRANTED else 0.0,
        )
        self._queue = Queue(next=self._queue.next + 1, entries=(*self._queue.entries, entry))
        _write(self._paths.job(entry.job).claim, canonical(request.claim))
        self._schedule(request.hosts)
        return self._entry(request.id)

    def _withdraw(self, request: Withdraw) -> WithdrawReply:
        entry = self._entry(request.id)
        if entry is None:
            ended = _read(EndedEntry, self._ended_file(request.id))
            return WithdrawReply(withdrawn=ended is not None and ended.end == request.end)
        leased, ours = entry.until >= self._now, bool(request.launcher) and entry.launcher == request.launcher
        if not ours and (leased or entry.state in (STARTING, LAUNCHED)):
            return WithdrawReply(withdrawn=False, leased=leased)
        self._dequeue(entry, request.end)
        return WithdrawReply(withdrawn=True)

    def _read_attempts(self, request: ReadAttempts) -> tuple[QueueEntry, ...]:
        files = sorted(self._paths.job(request.job_id).job.glob("g*-a*.json"))
        ended = [found.entry for file in files if (found := _read(EndedEntry, file)) is not None]
        return (*ended, *(entry for entry in self._queue.entries if entry.job == request.job_id))

    def _delete_job(self, request: DeleteJob) -> None:
        self._queue = replace(self._queue, entries=tuple(e for e in self._queue.entries if e.job != request.job_id))
        shutil.rmtree(self._paths.job(request.job_id).job, ignore_errors=True)

    # -- the queue

    def _advance(self, request: AdvanceQueue) -> QueueState:
        wanted = set(request.wanted)  # of all jobs that a triggerer watches
        seen = (replace(entry, seen=self._now) if entry.id in wanted else entry for entry in self._queue.entries)
        self._queue = replace(self._queue, entries=tuple(seen))
        for entry in filter(None, map(self._entry, request.ended)):
            if self._may_dequeue(entry):
                self._dequeue(entry, None)
        self._schedule(request.hosts)
        return QueueState(entries=self._queue.entries, now=self._now)

    def _schedule(self, hosts: tuple[HostCapacity, ...]) -> None:
        self._queue = replace(self._queue, entries=gang_scheduler.schedule(self._queue.entries, hosts, self._now))

    def _may_dequeue(self, entry: QueueEntry) -> bool:
        """Return whether an attempt without nodes is over; after the death of its launcher it is launched again if wanted."""
        wanted = entry.is_wanted(self._now) and self._owns(entry)
        died = entry.state == STARTING and entry.until < self._now and not wanted
        return died or entry.state == LAUNCHED

    # -- launching: one at a time, by whoever holds the lease

    def _acquire_lease(self, request: AcquireLease) -> LaunchLease | None:
        entry, claim = self._entry(request.id), self._claim_of(request.id.job_id)
        if entry is None or claim is None or entry.state not in (GRANTED, STARTING) or not self._owns(entry):
            return None
        if entry.launcher != request.launcher or not entry.until:  # else the request is repeated: its answer was lost
            if entry.until >= self._now:
                return None
            entry = self._update(entry, launcher=request.launcher, launch=entry.launch + 1, until=self._now + LEASE)
        return LaunchLease(entry=entry, claim=claim, waited=self._now - entry.since)

    def _renew_lease(self, request: RenewLease) -> bool:
        entry = self._leased(request)
        if entry is not None:
            self._update(entry, until=self._now + LEASE)
        return entry is not None

    def _record_start(self, request: RecordStart) -> bool:
        entry = self._leased(request)
        if entry is None or not self._owns(entry):
            return False
        pairs = zip(entry.allocations, request.folders, strict=True)
        allocations = tuple(replace(allocation, folder=folder) for allocation, folder in pairs)
        self._update(entry, state=STARTING, allocations=allocations, until=self._now + LEASE, over=request.over)
        return True

    def _finish_start(self, request: FinishStart) -> bool:
        entry = self._leased(request)
        if entry is None:
            return False
        self._update(entry, state=LAUNCHED, until=0.0)
        self._delete_bundle(entry)
        return True

    def _return_allocations(self, request: ReturnAllocations) -> ReturnReply | None:
        entry = self._entry(request.id)
        repeated = entry is not None and entry.refused == request.launcher and not entry.launcher
        if entry is None or not (repeated or entry.launcher == request.launcher):
            return None
        if not repeated:
            entry = self._update(entry, until=0.0, launcher="", refused=request.launcher)
            if entry.is_fixed:
                self._update(entry, state=GRANTED)
            else:
                self._update(entry, state=WAITING, allocations=(), held=(), excluded={**entry.excluded, **request.bad})
            self._schedule(request.hosts)
        entry = self._entry(request.id) or entry
        able = tuple(host for host in gang_scheduler.possible_hosts(entry, request.hosts) if host not in request.bad)
        return ReturnReply(entry=entry, able=able)

    # -- entries and files

    def _entry(self, attempt: AttemptId) -> QueueEntry | None:
        return next((entry for entry in self._queue.entries if entry.id == attempt), None)

    def _update(self, entry: QueueEntry, **changes: Any) -> QueueEntry:
        updated = replace(entry, **changes)
        entries = tuple(updated if other.id == entry.id else other for other in self._queue.entries)
        self._queue = replace(self._queue, entries=entries)
        return updated

    def _owns(self, entry: QueueEntry) -> bool:
        return _id_of(self._claim_of(entry.job)) == entry.id

    def _leased(self, request: _OfLauncher) -> QueueEntry | None:
        entry = self._entry(request.id)
        return entry if entry is not None and entry.launcher == request.launcher else None

    def _dequeue(self, entry: QueueEntry, end: Event | None) -> None:
        self._queue = replace(self._queue, entries=tuple(other for other in self._queue.entries if other.id != entry.id))
        self._delete_bundle(entry)
        _write(self._ended_file(entry.id), canonical(EndedEntry(entry=entry, end=end)))

    def _delete_bundle(self, entry: QueueEntry) -> None:
        if Path(entry.bundle).parent == self._paths.job(entry.job).job:
            shutil.rmtree(entry.bundle, ignore_errors=True)

    def _claim_of(self, job_id: str) -> dict[str, Any] | None:
        return _read(dict[str, Any], self._paths.job(job_id).claim)

    def _ended_file(self, attempt: AttemptId) -> Path:
        return self._paths.job(attempt.job_id).job / f"{attempt.folder}.json"


def _id_of(claim: dict[str, Any] | None) -> AttemptId | None:
    return AttemptId(claim["job_id"], claim["generation"], claim["attempt"]) if claim else None


def _read(kind: type[T], file: Path) -> T | None:
    """Return the value in a file, None if there is no such file; a file that is no such value is set aside."""
    try:
        return from_data(kind, json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except ValueError as error:
        aside = file.with_name(f"{file.name}.broken-{time.time():.0f}")
        os.replace(file, aside)
        sys.stderr.write(f"muster: {file} can't be read ({error}); it is set aside as {aside.name}\n")
        return None


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace_file(file, content)
