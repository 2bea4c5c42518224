"""WaitingRoom: the gangs of this process that wait for hosts of one inventory; whose turn has come is launched from here.

However many wait, the queue is asked once a turn, and the ends of those that hold hosts are pushed by the hosts' hubs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from muster.core.attempt import AttemptId
from muster.core.errors import MusterError, TargetError
from muster.node.host.gang_scheduler import LAUNCHED, WAITING, QueueEntry
from muster.targets.hosts.connection import NodeWatch
from muster.targets.hosts.shell import CommandTimeout
from muster.targets.hosts.ssh_errors import Unreachable
from muster.targets.ssh.launch import Connections, Launch, LaunchUncertain
from muster.targets.ssh.queue_client import QueueClient

TURN = 2.0  # seconds between two questions to the queue, unless something happens
PATIENCE = 60.0  # seconds in which the queue may fail to answer before those who wait are told
Tell = Callable[["QueueEntry | MusterError | str | None", list[QueueEntry]], None]


@dataclass(kw_only=True)
class Holder:
    """An attempt that holds hosts; told by their hubs when its nodes are gone."""

    room: QueueWatcher
    entry: QueueEntry
    gone: set[int] = field(default_factory=set)
    watches: list[NodeWatch] = field(default_factory=list)

    def watch(self, connections: Connections) -> None:
        """Have all hosts tell when nothing is left on them."""
        for node, allocation in enumerate(self.entry.allocations):
            sink = HolderSink(holder=self, node=node)
            try:
                self.watches.append(connections(allocation.host).watch(allocation.folder, 0, sink, quiet=True))
            except MusterError:  # of a host that the inventory has no more, nothing is to be given away
                self.gone.add(node)

    def leave(self) -> None:
        """Watch no more."""
        for watch in self.watches:
            watch.connection.forget(watch)

    @property
    def ended(self) -> bool:
        """Whether all its hosts said so."""
        return len(self.gone) == len(self.entry.allocations)


@dataclass(kw_only=True)
class HolderSink:
    """Hears the end of one node of a holder."""

    holder: Holder
    node: int

    def take(self, data: bytes) -> bool:
        """There is nothing to take: only the end is asked for."""
        return True

    def end(self, ending: dict[str, Any]) -> None:
        """Note the node's end; the last one frees the hosts."""
        self.holder.gone.add(self.node)
        if self.holder.ended:
            self.holder.room.wake()

    def fail(self, error: MusterError) -> None:
        """A host that can't be asked keeps what is held on it."""


class QueueWatcher:
    """Lives in the background loop.

    ``tell(entry, queue)`` hears how an attempt stands, None once it has left the queue, the error that ends all asking, or why
    a launch goes on only later.
    """

    def __init__(self, queue: QueueClient, connections: Connections) -> None:
        self._queue = queue
        self._connections = connections
        self._waiting: dict[AttemptId, list[Tell]] = {}
        self._holders: dict[AttemptId, Holder] = {}
        self._launching: dict[AttemptId, asyncio.Task[None]] = {}
        self._ended: set[AttemptId] = set()
        self._answered = time.monotonic()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def enter(self, key: AttemptId, tell: Tell) -> None:
        """Wait for an attempt's turn."""
        self._waiting.setdefault(key, []).append(tell)
        self._serve()

    def leave(self, key: AttemptId, tell: Tell) -> None:
        """Wait no more."""
        left = [other for other in self._waiting.get(key, []) if other != tell]  # a bound method is another one each time
        if left:
            self._waiting[key] = left
        else:
            self._waiting.pop(key, None)

    def settle(self, key: AttemptId) -> None:
        """Note that nothing is left of an attempt on its hosts: it goes out of the queue, together with others."""
        self._ended.add(key)
        self._serve()

    def _serve(self) -> None:
        self.wake()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def wake(self) -> None:
        """Look at the queue now."""
        self._woken.set()

    async def _run(self) -> None:
        try:
            while self._waiting or self._ended:
                self._woken.clear()
                await self._try_turn()
                try:
                    await asyncio.wait_for(self._woken.wait(), TURN)
                except TimeoutError:
                    pass
        finally:
            for holder in self._holders.values():
                holder.leave()
            self._holders.clear()

    async def _try_turn(self) -> None:
        try:
            await self._turn()
            self._answered = time.monotonic()
        except (Unreachable, CommandTimeout):
            pass  # the claim place is away, and may come back
        except Exception as error:
            if not isinstance(error, TargetError) or time.monotonic() > self._answered + PATIENCE:
                self._fail(error if isinstance(error, MusterError) else TargetError(f"the queue can't be asked: {error!r}"))

    async def _turn(self) -> None:
        ended = self._ended | {key for key, holder in self._holders.items() if holder.ended}
        entries, now = await self._queue.turn(list(self._waiting), list(ended))
        self._ended -= ended
        if not self._waiting:
            return
        there = {entry.id: entry for entry in entries}
        self._watch_holders([entry for entry in entries if entry.holds and entry.until < now])
        for key in list(self._waiting):
            entry = there.get(key)
            if entry is not None and entry.is_launchable(now) and key not in self._launching:
                self._launching[key] = asyncio.get_running_loop().create_task(self._launch(entry))
            if entry is None or entry.state in (WAITING, LAUNCHED):
                self._tell(key, entry, entries)

    def _watch_holders(self, holding: list[QueueEntry]) -> None:
        keys = {entry.id for entry in holding}
        for key in [key for key in self._holders if key not in keys]:
            self._holders.pop(key).leave()
        for entry in holding:
            if entry.id not in self._holders:
                self._holders[entry.id] = Holder(room=self, entry=entry)
                self._holders[entry.id].watch(self._connections)

    async def _launch(self, entry: QueueEntry) -> None:
        try:
            launched = await Launch(self._queue, self._connections, lambda line: None).run(entry)
            if launched is not None and launched.state == LAUNCHED:
                self._tell(entry.id, launched, [])
        except LaunchUncertain as unsettled:
            self._tell(entry.id, str(unsettled), [])
        except MusterError:
            self.wake()  # it has left the queue, with its end beside the claim
        finally:
            self._launching.pop(entry.id, None)

    def _tell(self, key: AttemptId, entry: QueueEntry | MusterError | str | None, entries: list[QueueEntry]) -> None:
        for tell in list(self._waiting.get(key, [])):
            tell(entry, entries)

    def _fail(self, error: MusterError) -> None:
        self._ended.clear()
        for key in list(self._waiting):
            self._tell(key, error, [])


def waiting_reason(entry: QueueEntry, entries: list[QueueEntry]) -> str:
    """Say what a gang waits for, and who has it."""
    gpus = f" with {entry.gpus} free GPU{'s' if entry.gpus > 1 else ''}" if entry.gpus else " with free slots"
    wish = f"{entry.nodes} host{'s' if entry.nodes > 1 else ''}{gpus}" + (" each" if entry.nodes > 1 else "")
    before = [other for other in entries if other.state == WAITING and other.number < entry.number]
    holders = [o.job for o in entries if o.state != WAITING and {p.host for p in o.allocations} & set(entry.held)]
    held = f" ({', '.join(entry.held)})" if entry.held else ""
    taken = f"; taken by {_listed(holders)}" if holders else ""
    ahead = f"; {len(before)} before it" if before else ""
    return f"waits for {wish}{held}{taken}{ahead}"


def _listed(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
