"""Reads a node's event log from the store, each line once, from any byte offset; needs no listing."""

from __future__ import annotations

from collections.abc import Iterator

from muster.core.event import Event, read_lines
from muster.store.event_segments import LogKeys, Tail
from muster.store.s3.bucket import Bucket
from muster.store.s3.errors import NotFound


def read_events(bucket: Bucket, keys: LogKeys, offset: int) -> Iterator[tuple[int, Event]]:
    """Yield the events from ``offset`` on, each with the offset after it; ends where the store's copy ends now."""
    stored = bucket.get(keys.tail)
    if stored is None:
        return
    tail = Tail.from_body(stored.body)
    time = 0.0
    for lines in _pieces(bucket, keys, offset, tail):
        for end, event in read_lines(lines, keys.node, time):
            time = event.time
            yield offset + end, event
        offset += len(lines)


def _pieces(bucket: Bucket, keys: LogKeys, offset: int, tail: Tail) -> Iterator[bytes]:
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
