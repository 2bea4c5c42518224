"""Gang scheduler: which waiting gang gets which hosts and GPUs, as a pure rule over the queue's entries and the hosts.

A gang gets all its hosts at once or none. The queue is in order: hosts that an older gang waits for are closed to younger ones,
so that none starves; a younger one passes it only over hosts that the older would not take.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from muster.core.attempt import AttemptId

WAITING, GRANTED, STARTING, LAUNCHED = "waiting", "granted", "starting", "launched"
ENDLESS = 1 << 30
PRESENCE = 120.0  # seconds after which a waiting gang that nobody asks for is passed over until somebody does


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """One node's part of what an attempt holds; ``folder`` is "" until its agent is about to be started."""

    host: str
    gpus: tuple[str, ...] = ()
    folder: str = ""


@dataclass(frozen=True, kw_only=True)
class ResourceRequest:
    """Resources of an attempt: nodes, each with slots and GPUs. ``bundle``: the folder of the launch bundle.

    An attempt that only commits outputs takes no slots, and names the hosts that have them in ``allocations``.
    """

    nodes: int
    slots: int
    gpus: int
    bundle: str
    state: str = WAITING
    allocations: tuple[Allocation, ...] = ()


@dataclass(frozen=True, kw_only=True)
class QueueEntry:
    """An attempt in the queue. ``number``: its place in the order; ``held``: hosts that it waits for.

    ``excluded``: hosts that failed, with the reason. ``launch``: how many launches were begun, ``launcher`` who runs the last
    one, ``until`` when that lease ends, ``refused`` who returned the allocations last. ``since``: when the attempt was queued,
    ``granted``: when it got its hosts, ``seen``: when somebody last asked for it. Times are the queue server's, in seconds
    since the epoch, but for ``over``, the launcher's: when no agent of the attempt can be alive any more.
    """

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
    excluded: dict[str, str] = field(default_factory=dict)
    since: float = 0.0
    seen: float = 0.0
    granted: float = 0.0
    launch: int = 0
    launcher: str = ""
    until: float = 0.0
    refused: str = ""
    over: float = 0.0

    @property
    def id(self) -> AttemptId:
        """Return the attempt's name."""
        return AttemptId(self.job, self.generation, self.attempt)

    @property
    def is_fixed(self) -> bool:
        """Return whether the attempt only commits outputs that lie on its hosts: it takes nothing, and goes nowhere else."""
        return not self.slots

    @property
    def holds(self) -> bool:
        """Return whether hosts may have agents of the attempt."""
        return self.state not in (WAITING, GRANTED)

    @property
    def is_over(self) -> bool:
        """Return whether all agents must have left, as their deadline has passed, also where no host can be asked."""
        return bool(self.over) and time.time() > self.over

    def is_launchable(self, now: float) -> bool:
        """Return whether the attempt has its allocations and no launcher."""
        return self.state in (GRANTED, STARTING) and self.until < now

    def is_wanted(self, now: float) -> bool:
        """Return whether somebody has asked for the attempt lately."""
        return self.seen + PRESENCE >= now


@dataclass(frozen=True, kw_only=True)
class HostCapacity:
    """Capacity of one host of the inventory. ``slots``: 0 if not counted; ``spare``: used only in place of a failed host."""

    name: str
    slots: int
    gpus: tuple[str, ...]
    spare: bool = False


class FreeCapacity:
    """Free capacity of every host."""

    def __init__(self, hosts: Sequence[HostCapacity], entries: Iterable[QueueEntry]) -> None:
        self._slots = {host.name: host.slots or ENDLESS for host in hosts}
        self._gpus = {host.name: list(host.gpus) for host in hosts}
        for entry in entries:
            for allocation in entry.allocations if entry.state != WAITING else ():
                self._deduct(allocation.host, entry.slots, allocation.gpus)

    def _deduct(self, host: str, slots: int, gpus: Iterable[str]) -> None:
        if host in self._slots:  # else the inventory has lost it
            self._slots[host] -= slots
            self._gpus[host] = [gpu for gpu in self._gpus[host] if gpu not in set(gpus)]

    def fits(self, host: str, entry: QueueEntry) -> bool:
        """Return whether a node of the gang fits on a host now."""
        return self._slots[host] >= entry.slots and len(self._gpus[host]) >= entry.gpus

    def allocate(self, host: str, entry: QueueEntry) -> Allocation:
        """Allocate slots and GPUs of a host to one node of the gang."""
        gpus = tuple(self._gpus[host][: entry.gpus])
        self._deduct(host, entry.slots, gpus)
        return Allocation(host=host, gpus=gpus)

    def free(self, host: str, entry: QueueEntry) -> tuple[int, int]:
        """Return how much of what a gang asks for is free, for comparing hosts; the same for all hosts if it is not counted."""
        slots = self._slots[host]
        return len(self._gpus[host]) if entry.gpus else 0, slots if slots < ENDLESS // 2 else 0


def schedule(entries: Sequence[QueueEntry], hosts: Sequence[HostCapacity], now: float) -> tuple[QueueEntry, ...]:
    """Return the entries with what can be granted; ``held`` of an entry that still waits are the hosts that it will take."""
    entries = [_without_expired_grant(entry, now) for entry in entries]
    capacity, closed = FreeCapacity(hosts, entries), set[str]()
    scheduled: dict[int, QueueEntry] = {}
    for entry in sorted(entries, key=lambda entry: entry.number):
        if entry.state == WAITING and entry.is_wanted(now):
            scheduled[entry.number] = _grant_or_hold(entry, hosts, capacity, closed, now)
            closed.update(scheduled[entry.number].held)
    return tuple(scheduled.get(entry.number, entry) for entry in entries)


def possible_hosts(entry: QueueEntry, hosts: Sequence[HostCapacity]) -> list[str]:
    """Return the hosts that could take a node of the gang if they were free; spares only in place of excluded ones."""
    if entry.is_fixed:
        return [allocation.host for allocation in entry.allocations]
    return [
        host.name
        for host in sorted(hosts, key=lambda host: host.spare)
        if host.name not in entry.excluded
        and (not host.spare or entry.excluded)
        and (host.slots or ENDLESS) >= entry.slots
        and len(host.gpus) >= entry.gpus
    ]


def _without_expired_grant(entry: QueueEntry, now: float) -> QueueEntry:
    if entry.state == GRANTED and not entry.is_wanted(now) and entry.until < now and not entry.is_fixed:
        return replace(entry, state=WAITING, allocations=(), held=())
    return entry


def _grant_or_hold(
    entry: QueueEntry, hosts: Sequence[HostCapacity], capacity: FreeCapacity, closed: set[str], now: float
) -> QueueEntry:
    able = [host for host in possible_hosts(entry, hosts) if host not in closed]
    fit = [host for host in able if capacity.fits(host, entry)]
    if len(fit) >= entry.nodes:
        spares = {host.name for host in hosts if host.spare}
        # a single node fills up a host that is in use, so that whole ones stay free; a gang spreads, since it needs many
        fit.sort(key=lambda host: capacity.free(host, entry), reverse=entry.nodes > 1)
        fit.sort(key=spares.__contains__)
        allocations = tuple(capacity.allocate(host, entry) for host in fit[: entry.nodes])
        return replace(entry, state=GRANTED, allocations=allocations, held=(), granted=now)
    kept = [host for host in entry.held if host in able]  # what it waits for stays closed, else others could take it in turn
    others = sorted((host for host in able if host not in kept), key=lambda host: capacity.free(host, entry), reverse=True)
    return replace(entry, held=tuple((kept + others)[: entry.nodes]))
