"""Watches the queue for the jobs of this process that wait for hosts of one inventory, and launches those whose turn has come.

However many wait, the queue is asked once in ``POLL_INTERVAL``, and the ends of jobs that hold hosts are pushed by the hosts.
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
from muster.targets.hosts.log_client import NodeWatch
from muster.targets.hosts.shell import CommandTimeout
from muster.targets.hosts.ssh_errors import HostUnreachable
from muster.targets.ssh.launch import Connections, Launch, LaunchUncertain
from muster.targets.ssh.queue_client import QueueClient

POLL_INTERVAL = 2.0  # seconds between two questions to the queue, unless something happens
TIMEOUT = 60.0  # seconds in which the queue may fail to answer before that is reported
Listener = Callable[["QueueEntry | MusterError | str | None", list[QueueEntry]], None]


@dataclass(kw_only=True)
class HostHolder:
    """A job that holds hosts on which others wait; ``wake`` is called once all its hosts have reported its end."""

    entry: QueueEntry
    wake: Callable[[], None]
    gone: set[int] = field(default_factory=set)
    watches: list[NodeWatch] = field(default_factory=list)

    def watch(self, connections: Connections) -> None:
        """Watch each host until no process of the job is left on it."""
        for node, allocation in enumerate(self.entry.allocations):
            listener = HolderListener(holder=self, node=node)
            try:
                self.watches.append(connections(allocation.host).logs.watch(allocation.folder, 0, listener, quiet=True))
            except MusterError:  # of a host that the inventory has no more, nothing is to be given away
                self.gone.add(node)

    def stop(self) -> None:
        """Stop to watch the hosts."""
        for watch in self.watches:
            watch.stop()

    @property
    def ended(self) -> bool:
        """Return whether all its hosts have reported its end."""
        return len(self.gone) == len(self.entry.allocations)


@dataclass(kw_only=True)
class HolderListener:
    """Waits for the end of one node of a job that holds hosts."""

    holder: HostHolder
    node: int

    def receive(self, lines: bytes, skipped: int) -> bool:
        """Drop lines: only the end was asked for."""
        return True

    def when_room(self, resume: Callable[[], object]) -> None:
        """Call ``resume``: there is always room."""
        resume()

    def end(self, end: dict[str, Any]) -> None:
        """Record the node's end; the last one frees the hosts."""
        self.holder.gone.add(self.node)
        if self.holder.ended:
            self.holder.wake()

    def fail(self, error: MusterError) -> None:
        """Keep the allocation: a host that can't be asked may still run its node."""


class QueueWatcher:
    """Lives in the background loop.

    ``listener(entry, queue)`` takes the entry of an attempt, None once it has left the queue, the error that ends the watch, or
    the reason why a launch goes on only later.
    """

    def __init__(self, queue: QueueClient, connections: Connections) -> None:
        self._queue = queue
        self._connections = connections
        self._waiting: dict[AttemptId, list[Listener]] = {}
        self._holders: dict[AttemptId, HostHolder] = {}
        self._launching: dict[AttemptId, asyncio.Task[None]] = {}
        self._ended: set[AttemptId] = set()
        self._answered = time.monotonic()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def subscribe(self, key: AttemptId, listener: Listener) -> None:
        """Report an attempt's place in the queue to a listener, and launch it when its turn has come."""
        self._waiting.setdefault(key, []).append(listener)
        self._serve()

    def unsubscribe(self, key: AttemptId, listener: Listener) -> None:
        """Remove a listener."""
        left = [other for other in self._waiting.get(key, []) if other != listener]  # a bound method is another one each time
        if left:
            self._waiting[key] = left
        else:
            self._waiting.pop(key, None)

    def release(self, key: AttemptId) -> None:
        """Release the hosts of an attempt, of which no process is left, together with others."""
        self._ended.add(key)
        self._serve()

    def _serve(self) -> None:
        self.wake()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def wake(self) -> None:
        """Poll the queue now."""
        self._woken.set()

    async def _run(self) -> None:
        try:
            while self._waiting or self._ended:
                self._woken.clear()
                await self._try_poll()
                try:
                    await asyncio.wait_for(self._woken.wait(), POLL_INTERVAL)
                except TimeoutError:
                    pass
        finally:
            for holder in self._holders.values():
                holder.stop()
            self._holders.clear()

    async def _try_poll(self) -> None:
        try:
            await self._poll()
            self._answered = time.monotonic()
        except (HostUnreachable, CommandTimeout):
            pass  # the host of the queue is unreachable, and may come back
        except Exception as error:
            if not isinstance(error, TargetError) or time.monotonic() > self._answered + TIMEOUT:
                self._fail(error if isinstance(error, MusterError) else TargetError(f"the queue can't be asked: {error!r}"))

    async def _poll(self) -> None:
        ended = self._ended | {key for key, holder in self._holders.items() if holder.ended}
        entries, now = await self._queue.advance(list(self._waiting), list(ended))
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
                self._report(key, entry, entries)

    def _watch_holders(self, holding: list[QueueEntry]) -> None:
        keys = {entry.id for entry in holding}
        for key in [key for key in self._holders if key not in keys]:
            self._holders.pop(key).stop()
        for entry in holding:
            if entry.id not in self._holders:
                self._holders[entry.id] = HostHolder(entry=entry, wake=self.wake)
                self._holders[entry.id].watch(self._connections)

    async def _launch(self, entry: QueueEntry) -> None:
        try:
            launched = await Launch(self._queue, self._connections, lambda line: None).run(entry)
            if launched is not None and launched.state == LAUNCHED:
                self._report(entry.id, launched, [])
        except LaunchUncertain as unsettled:
            self._report(entry.id, str(unsettled), [])
        except MusterError:
            self.wake()  # it has left the queue, with its end beside the claim
        finally:
            self._launching.pop(entry.id, None)

    def _report(self, key: AttemptId, entry: QueueEntry | MusterError | str | None, entries: list[QueueEntry]) -> None:
        for listener in list(self._waiting.get(key, [])):
            listener(entry, entries)

    def _fail(self, error: MusterError) -> None:
        self._ended.clear()
        for key in list(self._waiting):
            self._report(key, error, [])


def waiting_reason(entry: QueueEntry, entries: list[QueueEntry]) -> str:
    """Return what a job waits for, and who has it."""
    gpus = f" with {entry.gpus} free GPU{'s' if entry.gpus > 1 else ''}" if entry.gpus else " with free slots"
    request = f"{entry.nodes} host{'s' if entry.nodes > 1 else ''}{gpus}" + (" each" if entry.nodes > 1 else "")
    before = [other for other in entries if other.state == WAITING and other.number < entry.number]
    holders = [o.job for o in entries if o.state != WAITING and {p.host for p in o.allocations} & set(entry.held)]
    held = f" ({', '.join(entry.held)})" if entry.held else ""
    taken = f"; taken by {_listed(holders)}" if holders else ""
    ahead = f"; {len(before)} before it" if before else ""
    return f"waits for {request}{held}{taken}{ahead}"


def _listed(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
