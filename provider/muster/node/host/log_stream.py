"""Streams the event logs of all watched node folders of one host, in whole lines as they come.

On its standard input come JSON lines: ``{"do": "watch", "key", "folder", "offset", "outside", "quiet"}``,
``{"do": "over", "key"}`` and ``{"do": "unwatch", "key"}``. On its standard output go frames, each a JSON line and what it
announces: ``{"key", "bytes": N, "skipped": M}`` and N bytes of whole lines, which follow a line of M bytes that is too long to
be read; ``{"key", "silent": true, "orderly", "rebooted"}`` once nothing of the node is left and its log has been read to the
end; ``{"beat": seconds}``, so that a lost connection is found. The process ends with its input.
"""

from __future__ import annotations

import heapq
import json
import os
import select
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from muster.core.retry import Backoff
from muster.node.host import liveness

FASTEST, SLOWEST = 0.01, 0.4  # seconds between two reads of a log, while it grows and while it does not
LIVENESS = 0.5  # seconds between two checks whether a node lives
BEAT = 5.0  # seconds between two signs of life
PENDING = 4 << 20  # bytes that may wait for a slow reader; no log is read while there are more
READ_SIZE = 1 << 18  # bytes of one log read at once, so that a log that grows fast can't starve the others
LINE_LIMIT = 1 << 20  # bytes of a line; a longer one is no event of ours, and is skipped
LAST_EVENT = b'"k": "node_end"'


class LogPart(NamedTuple):
    """Whole lines of a log, which follow a line of ``skipped`` bytes that is too long; ``more``: there is more to read now."""

    lines: bytes = b""
    skipped: int = 0
    more: bool = False

    @property
    def size(self) -> int:
        """Return by how many bytes the position in the log moves."""
        return self.skipped + len(self.lines)


class LineCutter:
    """Cuts a log that comes in pieces into whole lines; holds no more of a line than ``LINE_LIMIT``."""

    def __init__(self) -> None:
        self._rest = b""  # the beginning of a line
        self._dropped = 0  # bytes so far of a line that is too long

    def cut(self, data: bytes) -> LogPart:
        """Return what is whole now."""
        skipped = 0
        if self._dropped:
            end = data.find(b"\n") + 1
            if not end:
                self._dropped += len(data)
                return LogPart()
            skipped, self._dropped, data = self._dropped + end, 0, data[end:]
        data = self._rest + data
        end = data.rfind(b"\n") + 1
        self._rest = data[end:]
        if len(self._rest) > LINE_LIMIT:
            self._dropped, self._rest = len(self._rest), b""
        return LogPart(data[:end], skipped)


class LogFile:
    """Reads an event log from a byte offset, ``READ_SIZE`` bytes at once, whatever somebody has written into it."""

    def __init__(self, path: str, offset: int) -> None:
        self._path = path
        self._position = offset
        self._cutter = LineCutter()

    def read(self) -> LogPart:
        """Return the next whole lines; nothing if the file is not there."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._position)
                data = file.read(READ_SIZE)
        except OSError:
            return LogPart()
        self._position += len(data)
        return self._cutter.cut(data)._replace(more=len(data) == READ_SIZE)


class WatchedLog:
    """The event log of one node folder. ``outside``: whether it lives is known elsewhere. ``quiet``: only its end counts."""

    slowest = SLOWEST
    liveness_interval = LIVENESS

    def __init__(self, key: object, folder: str, offset: int, *, outside: bool = False, quiet: bool = False) -> None:
        self.key = key
        self.folder = folder
        self.outside = outside
        self.over = False  # reported from outside: nothing more will be written
        self.orderly = False
        self.delay = 0.0  # seconds until the next read
        self._quiet = quiet
        self._log = LogFile(os.path.join(folder, "events.jsonl"), offset)
        self._backoff = Backoff(FASTEST, self.slowest, factor=1.3)
        self._lives = True
        self._checked = float("-inf")

    def read(self, now: float) -> tuple[LogPart, bool]:
        """Return the next part of the log, and whether it was the last."""
        lived_before = self._living(now)  # before reading: what was written before a death is still read
        part = LogPart() if self._quiet else self._log.read()
        self.orderly = self.orderly or LAST_EVENT in part.lines
        if part.size or self.orderly:
            self._backoff.reset()
        self.delay = 0.0 if part.more else self._backoff.next()
        return part, not part.size and not part.more and not lived_before

    def is_alive(self) -> bool:
        """Return whether the node lives, as its folder shows."""
        return liveness.is_alive(self.folder)

    def is_clean(self) -> bool:
        """Return whether nothing of the node is left; agent and guardian may both have died with ranks alive."""
        if self.outside or self.orderly:
            return True
        with liveness.locked_folder(self.folder, wait=False) as held:  # unless somebody is about to start it again
            return held and not self.is_alive() and liveness.sweep(self.folder)

    def end(self) -> dict[str, object]:
        """Return the frame that reports that nothing of the node is left."""
        rebooted = not self.outside and liveness.was_rebooted(self.folder)
        return {"key": self.key, "silent": True, "orderly": self.orderly, "rebooted": rebooted}

    def _living(self, now: float) -> bool:
        if self.outside:
            return not (self.over or self.orderly)
        if self.orderly or now >= self._checked + self.liveness_interval:
            self._lives, self._checked = self.is_alive(), now
        return self._lives


class LogSchedule:
    """Reads watched logs, each when it is due."""

    def __init__(self) -> None:
        self._logs: dict[object, WatchedLog] = {}
        self._due: list[tuple[float, int, WatchedLog]] = []
        self._count = 0

    def add(self, log: WatchedLog) -> None:
        """Read a log from now on, in place of the one of the same key."""
        self._logs[log.key] = log
        self._schedule(time.monotonic(), log)

    def remove(self, key: object) -> None:
        """Read a log no more."""
        self._logs.pop(key, None)

    def get(self, key: object) -> WatchedLog | None:
        """Return the log of a key."""
        return self._logs.get(key)

    @property
    def next_due(self) -> float:
        """Return when the next log is due, by time.monotonic()."""
        return self._due[0][0] if self._due else float("inf")

    def read_due(self) -> Iterator[tuple[WatchedLog, LogPart | None]]:
        """Yield a part of each log that is due now; None for the part once nothing of the node is left."""
        now = time.monotonic()
        while self.next_due <= now:
            log = heapq.heappop(self._due)[2]
            if self._logs.get(log.key) is not log:  # removed or replaced
                continue
            part, last = log.read(now)
            if last and log.is_clean():
                del self._logs[log.key]
                yield log, None
                continue
            self._schedule(now + max(log.delay, 1e-6), log)  # others, and who waits for us, come in between
            if part.size:
                yield log, part

    def _schedule(self, when: float, log: WatchedLog) -> None:
        self._count += 1
        heapq.heappush(self._due, (when, self._count, log))


class LogStreamer:
    """Serves one reader: what it asks for comes in on ``source``, frames go out on ``sink``."""

    def __init__(self, source: int, sink: int) -> None:
        self._in, self._out = source, sink
        self._asked = b""
        self._pending: list[bytes] = []
        self._waiting = 0  # bytes in it
        self._schedule = LogSchedule()
        self._open = True
        self._next_beat = time.monotonic()
        os.set_blocking(source, False)
        os.set_blocking(sink, False)

    def run(self) -> int:
        """Serve until nobody listens any more."""
        try:
            while self._open:
                self._beat()
                self._push_due()
                self._wait()
        except (BrokenPipeError, ConnectionResetError):
            pass
        return 0

    # -- requests

    def _listen(self) -> None:
        data = os.read(self._in, 1 << 16)
        if not data:
            self._open = False
            return
        *lines, self._asked = (self._asked + data).split(b"\n")
        for line in lines:
            if line.strip():
                self._handle(json.loads(line))

    def _handle(self, request: dict[str, Any]) -> None:
        key = request["key"]
        if request["do"] == "watch":
            outside, quiet = bool(request.get("outside")), bool(request.get("quiet"))
            log = WatchedLog(key, str(request["folder"]), int(request.get("offset", 0)), outside=outside, quiet=quiet)
            log.over = bool(request.get("over"))
            self._schedule.add(log)
        elif request["do"] == "unwatch":
            self._schedule.remove(key)
        elif request["do"] == "over" and (watched := self._schedule.get(key)) is not None:
            watched.over = True

    # -- frames

    def _push_due(self) -> None:
        """Push what is new; a slow reader has the logs wait."""
        if self._waiting >= PENDING:
            return
        for log, part in self._schedule.read_due():
            if part is None:
                self._send(log.end())
            else:
                skipped = {"skipped": part.skipped} if part.skipped else {}
                self._send({"key": log.key, "bytes": len(part.lines), **skipped}, part.lines)
            if self._waiting >= PENDING:
                return

    def _beat(self) -> None:
        now = time.monotonic()
        if now >= self._next_beat and self._waiting < PENDING:
            self._next_beat = now + BEAT
            self._send({"beat": BEAT})

    def _send(self, head: dict[str, object], data: bytes = b"") -> None:
        self._pending += [json.dumps(head).encode() + b"\n", *([data] if data else [])]
        self._waiting += len(self._pending[-1]) + (len(self._pending[-2]) if data else 0)
        self._flush()

    def _flush(self) -> None:
        """Write as much as the reader has room for."""
        while self._pending:
            try:
                written = os.write(self._out, self._pending[0])
            except BlockingIOError:
                return
            self._waiting -= written
            if written < len(self._pending[0]):
                self._pending[0] = self._pending[0][written:]
            else:
                del self._pending[0]

    def _wait(self) -> None:
        """Wait until there is a request, room, or a log that is due."""
        due = min(self._next_beat, self._schedule.next_due) if self._waiting < PENDING else float("inf")
        timeout = max(0.0, min(due - time.monotonic(), BEAT))
        readable, writable, _ = select.select([self._in], [self._out] if self._pending else [], [], timeout)
        if readable:
            self._listen()
        if writable:
            self._flush()


class FrameDecoder:
    """Splits what a log streamer sends into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: dict[str, Any] | None = None

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Yield the head and the bytes of each frame that is whole now."""
        self._buffer += data
        while self._next_head():
            assert self._head is not None
            size = int(self._head.get("bytes", 0))
            if len(self._buffer) < size:
                return
            head, body, self._head = self._head, bytes(self._buffer[:size]), None
            del self._buffer[:size]
            yield head, body

    def _next_head(self) -> bool:
        if self._head is None and (end := self._buffer.find(b"\n")) >= 0:
            self._head = json.loads(self._buffer[:end])
            del self._buffer[: end + 1]
        return self._head is not None


def main(arguments: list[str]) -> int:
    """Run the log streamer of this host; it takes no arguments."""
    return LogStreamer(sys.stdin.fileno(), sys.stdout.fileno()).run()
