"""Receives node logs from the log streamer of one host, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from muster.core.errors import MusterError, TargetError
from muster.core.retry import Backoff
from muster.node.host.log_stream import FrameDecoder
from muster.targets.hosts.shell import ConnectionLost, Stream

if TYPE_CHECKING:
    from muster.targets.hosts.connection import HostConnection

PART = "log-stream"
FIRST_DELAY, LONGEST_DELAY = 0.2, 5.0  # seconds between two tries to connect
SILENCE = 20.0  # seconds without a frame, not even a beat, after which the connection counts as lost
READ_SIZE = 1 << 18


class LogListener(Protocol):
    """Receives one watched node's log, always in the background loop."""

    def receive(self, lines: bytes, skipped: int) -> bool:
        """Receive whole lines, which follow a line of ``skipped`` bytes that was too long; return whether there is room."""
        ...

    def when_room(self, resume: Callable[[], object]) -> None:
        """Call ``resume`` in the background loop once there is room."""
        ...

    def end(self, end: dict[str, Any]) -> None:
        """Receive the end of the node: no process of it is left."""
        ...

    def fail(self, error: MusterError) -> None:
        """Receive the permanent error because of which the node can't be watched."""
        ...


@dataclass(kw_only=True)
class NodeWatch:
    """One watched node folder; ``key`` names it to the log streamer and changes whenever its position is sent again.

    ``outside``: whether the node lives can't be seen on that host; whoever knows calls :meth:`finish`. ``quiet``: only its end
    is of interest.
    """

    client: LogClient
    folder: str
    offset: int
    listener: LogListener
    quiet: bool = False
    outside: bool = False
    over: bool = False
    key: int = 0
    paused: bool = False

    def stop(self) -> None:
        """Watch the node no more."""
        self.paused = False
        self.client.remove(self)

    def resume(self) -> None:
        """Resume after there was no room."""
        if self.paused:
            self.paused = False
            self.client.add(self)

    def finish(self) -> None:
        """Report that the node will write nothing more; its end comes after what it has written."""
        self.over = True
        self.client.finish(self)

    def request(self) -> dict[str, Any]:
        """Return what the log streamer is asked for."""
        request = {"do": "watch", "key": self.key, "folder": self.folder, "offset": self.offset, "quiet": self.quiet}
        return {**request, "outside": self.outside, "over": self.over}


class LogClient:
    """All watched nodes of one host; lives in the background loop only."""

    def __init__(self, connection: HostConnection) -> None:
        self.lost_since = 0.0  # by time.monotonic(); 0 while connected or not needed
        self._connection = connection
        self._keys = itertools.count(1)
        self._watches: dict[int, NodeWatch] = {}
        self._requests: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._received = 0.0
        self._task: asyncio.Task[None] | None = None

    def watch(
        self, folder: str, offset: int, listener: LogListener, *, quiet: bool = False, outside: bool = False
    ) -> NodeWatch:
        """Start to watch a node, from an offset of its log."""
        watch = NodeWatch(client=self, folder=folder, offset=offset, listener=listener, quiet=quiet, outside=outside)
        self.add(watch)
        return watch

    def add(self, watch: NodeWatch) -> None:
        """Ask for a node's log by a new key: what is still on the way for the old one counts for nothing."""
        self._watches.pop(watch.key, None)
        watch.key = next(self._keys)
        self._watches[watch.key] = watch
        self._requests.put_nowait(watch.request())
        if self._task is None or self._task.done():  # also when all that was watched had been paused
            self._task = asyncio.get_running_loop().create_task(self._receive_all())

    def remove(self, watch: NodeWatch) -> None:
        """Watch a node no more."""
        if self._watches.pop(watch.key, None) is not None:
            self._requests.put_nowait({"do": "unwatch", "key": watch.key})

    def finish(self, watch: NodeWatch) -> None:
        """Report that a node watched from outside will write nothing more."""
        if watch.key in self._watches:
            self._requests.put_nowait({"do": "over", "key": watch.key})

    async def _receive_all(self) -> None:
        """Keep a log streamer running as long as something is watched."""
        backoff = Backoff(FIRST_DELAY, LONGEST_DELAY, jitter=(0.7, 1.3))
        with self._connection.in_use():
            while self._watches:
                began = self._received = time.monotonic()
                try:
                    await self._receive()
                except (TargetError, TimeoutError):
                    pass  # it may come right: a host that starts, a disk that is full
                except Exception as error:
                    host = self._connection.host.name
                    self._fail(error if isinstance(error, MusterError) else TargetError(f"host {host}: {error!r}"))
                    break
                if self._watches:
                    self.lost_since = self.lost_since or self._received
                    if self._received > began + LONGEST_DELAY:
                        backoff.reset()
                    await asyncio.sleep(backoff.next())
        self.lost_since = 0.0  # else the next watch would begin with the outage of an earlier one

    async def _receive(self) -> None:
        await self._connection.inspect()  # somebody may have emptied the host's root folder
        stream = await self._connection.talk(PART)
        sender = asyncio.get_running_loop().create_task(self._send_requests(stream))
        try:
            async for head, data in _frames(stream):
                self._received, self.lost_since = time.monotonic(), 0.0
                self._dispatch(head, data)
                if not self._watches:
                    return
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            await stream.close()

    async def _send_requests(self, stream: Stream) -> None:
        """Send a new log streamer all that is watched, then what changes."""
        while not self._requests.empty():
            self._requests.get_nowait()
        requests = [watch.request() for watch in self._watches.values()]
        with contextlib.suppress(ConnectionLost):
            await stream.write(b"".join(json.dumps(request).encode() + b"\n" for request in requests))
            while True:
                await stream.write(json.dumps(await self._requests.get()).encode() + b"\n")

    def _dispatch(self, head: dict[str, Any], lines: bytes) -> None:
        watch = self._watches.get(int(head.get("key", 0)))
        if watch is None:
            return
        if head.get("silent"):
            del self._watches[watch.key]
            watch.listener.end(head)
            return
        skipped = int(head.get("skipped", 0))
        watch.offset += skipped + len(lines)
        if not watch.listener.receive(lines, skipped):
            self.remove(watch)
            watch.paused = True
            watch.listener.when_room(watch.resume)

    def _fail(self, error: MusterError) -> None:
        watches, self._watches = list(self._watches.values()), {}
        for watch in watches:
            watch.listener.fail(error)


async def _frames(stream: Stream) -> AsyncIterator[tuple[dict[str, Any], bytes]]:
    """Yield the head and the bytes of each frame until the log streamer ends.

    :raises TimeoutError: there was none for too long, not even a beat.
    """
    decoder = FrameDecoder()
    while data := await asyncio.wait_for(stream.read(READ_SIZE), SILENCE):
        for frame in decoder.feed(data):
            yield frame
