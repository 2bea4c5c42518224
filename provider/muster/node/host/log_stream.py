"""The hub: one process per host that pushes the event logs of all watched node folders, whole lines as they come.

On its standard input come JSON lines: ``{"do": "watch", "key", "folder", "offset", "outside", "quiet"}``,
``{"do": "over", "key"}`` and ``{"do": "forget", "key"}``. On its standard output go frames, each a JSON line and what it
announces: ``{"key", "bytes": N}`` and N bytes of whole lines; ``{"key", "silent": true, "orderly", "rebooted"}`` once nothing
of the node is left and its log has been read to the end; ``{"beat": seconds}``, so that a lost connection is found. It ends
with its input.
"""

from __future__ import annotations

import heapq
import json
import os
import select
import sys
import time
from collections.abc import Iterator

from muster.core.retry import Backoff
from muster.node.host import liveness

FASTEST, SLOWEST = 0.01, 0.4  # seconds between two looks at a log, while something happens and while nothing does
LIVENESS = 0.5  # seconds between two looks whether a node lives
BEAT = 5.0  # seconds between two signs of life
PENDING = 4 << 20  # bytes that may wait for a slow reader; no log is read while there are more
READ_SIZE = 1 << 18  # bytes of one log taken at one look, so that a talkative job can't starve the others
LAST_EVENT = b'"k": "node_end"'


class WatchedLog:
    """One node folder. ``outside``: whether it lives is known elsewhere. ``quiet``: only its end is wanted."""

    def __init__(self, key: object, folder: str, offset: int, *, outside: bool, quiet: bool) -> None:
        self.key = key
        self.folder = folder
        self.outside = outside
        self.over = False  # said from outside: nothing more will be written
        self.orderly = False
        self.pause = FASTEST
        self._backoff = Backoff(FASTEST, SLOWEST, factor=1.3)
        self._quiet = quiet
        self._log = os.path.join(folder, "events.jsonl")
        self._offset = offset
        self._lives = True
        self._looked = float("-inf")

    def look(self, now: float) -> tuple[bytes, bool]:
        """Give the next whole lines, and whether they were the last."""
        living_before = self._living(now)  # before reading: what was written before a death is still read
        data = b"" if self._quiet else self._read()
        self._offset += len(data)
        self.orderly = self.orderly or LAST_EVENT in data[-READ_SIZE:]
        if data or self.orderly:
            self._backoff.reset()
        self.pause = self._backoff.next()
        return data, not data and not living_before

    def _living(self, now: float) -> bool:
        if self.outside:
            return not (self.over or self.orderly)
        if self.orderly or now >= self._looked + LIVENESS:
            self._lives, self._looked = liveness.is_alive(self.folder), now
        return self._lives

    def _read(self) -> bytes:
        try:
            with open(self._log, "rb") as file:
                file.seek(self._offset)
                data = file.read(READ_SIZE)
                while data and b"\n" not in data and (more := file.read(READ_SIZE)):
                    data += more
        except OSError:
            return b""
        return data[: data.rfind(b"\n") + 1]

    def ending(self) -> dict[str, object]:
        """Give the frame that says that nothing of the node is left."""
        rebooted = not self.outside and liveness.was_rebooted(self.folder)
        return {"key": self.key, "silent": True, "orderly": self.orderly, "rebooted": rebooted}


class LogStreamer:
    """All watched folders of this host, each looked at when it is due."""

    def __init__(self, source: int, sink: int) -> None:
        self._in, self._out = source, sink
        self._asked = b""
        self._pending: list[bytes] = []
        self._waiting = 0  # bytes in it
        self._watched: dict[object, WatchedLog] = {}
        self._due: list[tuple[float, int, object]] = []
        self._turn = 0
        self._open = True
        self._next_beat = time.monotonic()
        os.set_blocking(source, False)
        os.set_blocking(sink, False)

    def run(self) -> int:
        """Serve until nobody listens any more."""
        try:
            while self._open:
                self._beat()
                self._look_around()
                self._wait()
        except (BrokenPipeError, ConnectionResetError):
            pass
        return 0

    # -- what is asked

    def _listen(self) -> None:
        data = os.read(self._in, 1 << 16)
        if not data:
            self._open = False
            return
        *lines, self._asked = (self._asked + data).split(b"\n")
        for line in lines:
            if line.strip():
                self._take(json.loads(line))

    def _take(self, request: dict[str, object]) -> None:
        key = request["key"]
        if request["do"] == "watch":
            outside, quiet = bool(request.get("outside")), bool(request.get("quiet"))
            offset = int(str(request.get("offset", 0)))
            watched = WatchedLog(key, str(request["folder"]), offset, outside=outside, quiet=quiet)
            watched.over = bool(request.get("over"))
            self._watched[key] = watched
            self._at(time.monotonic(), key)
        elif request["do"] == "forget":
            self._watched.pop(key, None)
        elif request["do"] == "over" and key in self._watched:
            self._watched[key].over = True

    # -- what there is

    def _at(self, when: float, key: object) -> None:
        self._turn += 1
        heapq.heappush(self._due, (when, self._turn, key))

    def _look_around(self) -> None:
        """Look at every folder that is due; a slow reader has them wait."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now and self._waiting < PENDING:
            _, _, key = heapq.heappop(self._due)
            if key in self._watched:
                self._look(self._watched[key], now)

    def _look(self, watched: WatchedLog, now: float) -> None:
        data, last = watched.look(now)
        if data:
            self._say({"key": watched.key, "bytes": len(data)}, data)
        if last and self._is_clean(watched):
            self._say(watched.ending())
            del self._watched[watched.key]
            return
        self._at(now + (0.0 if len(data) >= READ_SIZE // 2 else watched.pause), watched.key)

    @staticmethod
    def _is_clean(watched: WatchedLog) -> bool:
        """Whether nothing of the node is left; agent and guardian may both have died with ranks alive."""
        if watched.outside or watched.orderly:
            return True
        with liveness.locked(watched.folder, wait=False) as held:  # unless somebody is about to start it again
            return held and not liveness.is_alive(watched.folder) and liveness.sweep(watched.folder)

    # -- what is said

    def _beat(self) -> None:
        now = time.monotonic()
        if now >= self._next_beat and self._waiting < PENDING:
            self._next_beat = now + BEAT
            self._say({"beat": BEAT})

    def _say(self, head: dict[str, object], data: bytes = b"") -> None:
        self._pending += [json.dumps(head).encode() + b"\n", *([data] if data else [])]
        self._waiting += len(self._pending[-1]) + (len(self._pending[-2]) if data else 0)
        self._flush()

    def _flush(self) -> None:
        """Write as much as is taken."""
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
        """Wait until something is asked, taken, or due."""
        until = [self._next_beat, *([self._due[0][0]] if self._due else [])] if self._waiting < PENDING else [float("inf")]
        pause = max(0.0, min(min(until) - time.monotonic(), BEAT))
        readable, writable, _ = select.select([self._in], [self._out] if self._pending else [], [], pause)
        if readable:
            self._listen()
        if writable:
            self._flush()


def frames(data: bytes) -> Iterator[tuple[dict[str, object], bytes]]:
    """Yield the whole frames of what a hub said, for tests."""
    while data:
        line, _, data = data.partition(b"\n")
        head = json.loads(line)
        size = int(head.get("bytes", 0))
        yield head, data[:size]
        data = data[size:]


def main(arguments: list[str]) -> int:
    """Run the hub of this host; it takes no arguments."""
    return LogStreamer(sys.stdin.fileno(), sys.stdout.fileno()).run()
