"""A node's event log in the store: sealed segments of whole lines, named by byte offset, and one tail object that lists them.

A reader sees each line once because the tail is replaced in one write, names every segment before it, and holds all lines
after them; a segment exists before any tail names it, and is never written twice.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from muster.core.errors import StoreError
from muster.core.event import Event, read_lines
from muster.core.store_keys import LAYOUT_VERSION, RunKeys
from muster.store.s3.bucket import Bucket
from muster.store.s3.errors import NotFound, PreconditionFailed, StoreUnavailable

SEAL_SIZE = 256 << 10  # bytes of whole lines from which a segment is sealed
SEGMENT_LIMIT = 4 << 20  # bytes; a segment is longer only if a single line is


@dataclass(frozen=True, kw_only=True)
class LogKeys:
    """Keys of the event log of one node in one attempt."""

    run: RunKeys
    attempt: int
    node: int

    @property
    def tail(self) -> str:
        return self.run.tail(self.attempt, self.node)

    def segment(self, start: int) -> str:
        """Return the key of the segment that starts at a byte offset."""
        return self.run.segment(self.attempt, self.node, start)


@dataclass(frozen=True, kw_only=True)
class Tail:
    """The tail object: offsets of the sealed segments, the offset of its own lines, and the lines."""

    segments: tuple[int, ...] = ()
    start: int = 0
    final: bool = False
    lines: bytes = b""

    @property
    def end(self) -> int:
        """Offset after the last line."""
        return self.start + len(self.lines)

    def to_body(self) -> bytes:
        """Return the object's body: a header line, then the lines as they are."""
        head = {"version": LAYOUT_VERSION, "segments": self.segments, "start": self.start, "final": self.final}
        return json.dumps(head).encode() + b"\n" + self.lines

    @classmethod
    def from_body(cls, body: bytes) -> Tail:
        """Return the tail in an object's body.

        :raises StoreError: a newer release wrote it.
        """
        head, _, lines = body.partition(b"\n")
        data = json.loads(head)
        if data["version"] > LAYOUT_VERSION:
            raise StoreError(f"the event log has layout version {data['version']}; update Muster, which knows {LAYOUT_VERSION}")
        return cls(segments=tuple(data["segments"]), start=data["start"], final=data["final"], lines=lines)


class EventUploader:
    """Uploads one event log that only grows; may be killed at any point, as a new one continues from what the store has."""

    def __init__(self, bucket: Bucket, keys: LogKeys, log: Path) -> None:
        self._bucket = bucket
        self._keys = keys
        self._log = log
        self._tail: Tail | None = None
        self._lock = threading.Lock()

    def upload(self, final: bool = False) -> None:
        """Upload up to the log's last whole line; ``final`` marks in the tail that nothing will follow.

        :raises StoreError: not everything could be stored; call again.
        """
        with self._lock:
            known = self._tail if self._tail is not None else self._recover()
            self._tail = known
            if not final and self._log_size() <= known.end:
                return
            tail = self._seal(known)
            if tail.lines != known.lines or tail.start != known.start or final != known.final:
                tail = replace(tail, final=final)
                self._bucket.put(self._keys.tail, tail.to_body())
            self._tail = tail

    def _recover(self) -> Tail:
        stored = self._bucket.get(self._keys.tail)
        return Tail() if stored is None else Tail.from_body(stored.body)

    def _seal(self, known: Tail) -> Tail:
        """Seal what is long enough; return the tail with the rest."""
        segments, start = known.segments, known.start
        lines, cut = self._whole_lines(start)
        while lines and (cut or len(lines) >= SEAL_SIZE):
            length = self._put_segment(start, lines)
            segments, start = (*segments, start), start + length
            lines, cut = self._whole_lines(start)
        return Tail(segments=segments, start=start, lines=lines)

    def _put_segment(self, start: int, lines: bytes) -> int:
        """Store a segment and return its length: that of the stored one, if an earlier process got that far."""
        key = self._keys.segment(start)
        try:
            self._bucket.put(key, lines, if_absent=True)
        except PreconditionFailed:
            stored = self._bucket.get(key)
            if stored is None:
                raise StoreUnavailable(f"{key} is being written") from None
            return len(stored.body)
        return len(lines)

    def _whole_lines(self, start: int) -> tuple[bytes, bool]:
        """Return whole lines from ``start``, about the segment limit of them but at least one, and whether there is more."""
        if not self._log.exists():
            return b"", False
        with self._log.open("rb") as file:
            file.seek(start)
            data = more = file.read(SEGMENT_LIMIT)
            while b"\n" not in data and (more := file.read(SEGMENT_LIMIT)):
                data += more
        return data[: data.rfind(b"\n") + 1], len(more) == SEGMENT_LIMIT

    def _log_size(self) -> int:
        try:
            return self._log.stat().st_size
        except FileNotFoundError:
            return 0


def read_events(bucket: Bucket, keys: LogKeys, offset: int) -> Iterator[tuple[int, Event]]:
    """Yield the events from ``offset`` on, each with the offset after it, up to the end of the store's copy; lists nothing."""
    stored = bucket.get(keys.tail)
    if stored is None:
        return
    tail = Tail.from_body(stored.body)
    time = 0.0
    for lines in _chunks(bucket, keys, offset, tail):
        for end, event in read_lines(lines, keys.node, time):
            time = event.time
            yield offset + end, event
        offset += len(lines)


def _chunks(bucket: Bucket, keys: LogKeys, offset: int, tail: Tail) -> Iterator[bytes]:
    """Yield the bytes of whole lines from ``offset`` on, one object at a time."""
    for start, end in zip(tail.segments, (*tail.segments[1:], tail.start), strict=False):
        if end > offset:
            key = keys.segment(start)
            stored = bucket.get(key, start=max(0, offset - start))
            if stored is None:
                raise NotFound(f"store {bucket.uri}: {key} is missing, though the tail lists it; the event log has a gap")
            yield stored.body
    if tail.end > offset:
        yield tail.lines[max(0, offset - tail.start) :]
