"""The event log in the store is exact: whatever is appended how, and whenever the process dies, each line is read once."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from muster.core.event import Event
from muster.node.sync_commands import Finish, StoreEventLog
from muster.store.event_segments import SEAL_SIZE, SEGMENT_LIMIT, EventUploader, LogKeys, Tail, read_events
from muster.store.run_store import RunStore
from store_server import Store, wait_until
from sync_process import SyncNode

MakeNode = Callable[..., SyncNode]
TEXTS = ["", "plain", "with\nnewline", "tab\t\u2028\u2029\x85 separators", "ünïcödé 🐎", "quotes \" ' $HOME \\", "\x00\x1b[31m"]


class Reader:
    """Follows a node's log in the store from offset 0, as a live viewer does."""

    def __init__(self, store: RunStore, node: SyncNode, number: int | None = None) -> None:
        self._store = store
        self._node = node
        self._number = node.node if number is None else number
        self.offset = 0
        self.events: list[Event] = []

    def read(self) -> int:
        n = self._node
        for after, event in self._store.events(n.job, n.generation, n.attempt, self._number, self.offset):
            assert after > self.offset
            self.offset = after
            self.events.append(event)
        return len(self.events)


def numbers(events: list[Event]) -> list[int]:
    return [event.data["i"] for event in events]


def write_hostile(node: SyncNode, count: int, seed: int = 1) -> None:
    """Append numbered lines in pieces that end anywhere, also within a character; some lines are 1 MB long."""
    chance = random.Random(seed)
    for i in range(count):
        text = "long " * 200_000 if i % 50 == 17 else chance.choice(TEXTS) * chance.randrange(1, 200)
        data = Event(time=float(i), kind="line", node=node.node, data={"i": i, "rank": 0, "text": text}).to_line().encode()
        cut = chance.randrange(len(data))
        node.log_bytes(data[:cut])
        node.log_bytes(data[cut:])


def test_reader_sees_every_line_once_while_a_hostile_writer_writes(node: SyncNode, store: Store) -> None:
    writer = threading.Thread(target=write_hostile, args=(node, 400))
    writer.start()
    reader = Reader(store.open(), node)
    wait_until(lambda: reader.read() == 400, every=0.2, what="all lines are read")
    writer.join()
    assert numbers(reader.events) == list(range(400))
    assert reader.offset == node.paths.events.stat().st_size


def test_reading_may_begin_at_any_line(node: SyncNode, store: Store) -> None:
    write_hostile(node, 120)
    node.call(Finish(timeout=20))
    run_store = store.open()
    everything = list(run_store.events(node.job, 1, 1, 0))
    assert len(everything) == 120
    for at in range(0, 120, 7):
        offset = everything[at][0]
        rest = list(run_store.events(node.job, 1, 1, 0, offset))
        assert rest == everything[at + 1 :]


def test_finish_ships_the_last_line_and_says_final(node: SyncNode, store: Store) -> None:
    node.log_event("line", i=0, text="last words")
    node.call(Finish(timeout=20))
    assert node.wait() == 0
    stored = store.open().bucket.get(node.keys.tail(1, 0))
    assert stored is not None
    head, lines = stored.body.split(b"\n", 1)
    assert json.loads(head) == {"version": 1, "segments": [], "start": 0, "final": True}
    assert lines == node.paths.events.read_bytes()


def test_killed_and_started_again_at_any_moment_nothing_is_lost_or_doubled(make_node: MakeNode, store: Store) -> None:
    node = make_node()
    reader = Reader(store.open(), node)
    for turn in range(5):
        write_hostile(node, 60, seed=turn)
        node.start()
        some = 60 * turn + random.randrange(1, 60)
        wait_until(lambda some=some: reader.read() >= some, every=0.05, what="some lines are read")
        node.kill()
    node.start()
    node.call(Finish(timeout=20))
    reader.read()
    assert numbers(reader.events) == list(range(60)) * 5


@pytest.mark.parametrize("crash", ["segment", "tail"])
def test_a_crash_between_two_writes_leaves_a_log_that_goes_on(store: Store, make_node: MakeNode, crash: str) -> None:
    """The writes of a shipper are cut off after each one in turn; a new shipper goes on, with more in the log than before."""
    node = make_node()
    keys = LogKeys(run=node.keys, attempt=1, node=0)
    bucket = store.open().bucket
    line = Event(time=0.0, kind="line", node=0, data={"rank": 0, "text": "x" * 1000}).to_line().encode()
    written = 0
    for _ in range(6):
        node.log_bytes(line * 300)
        written += 300
        uploader = EventUploader(_Dying(bucket, crash), keys, node.paths.events)  # type: ignore[arg-type]
        with pytest.raises(KeyboardInterrupt):
            uploader.upload()
        seen = sum(1 for _ in read_events(bucket, keys, 0))
        assert seen <= written
    EventUploader(bucket, keys, node.paths.events).upload(final=True)
    assert len(list(read_events(bucket, keys, 0))) == written


class _Dying:
    """A bucket whose owner dies right after a write of one kind."""

    def __init__(self, bucket: object, kind: str) -> None:
        self._bucket = bucket
        self._kind = kind

    def __getattr__(self, name: str) -> object:
        return getattr(self._bucket, name)

    def put(self, key: str, body: bytes, **fields: bool) -> None:
        self._bucket.put(key, body, **fields)  # type: ignore[attr-defined]
        if key.endswith("tail.jsonl") == (self._kind == "tail"):
            raise KeyboardInterrupt


def test_segments_are_sealed_named_by_offset_and_never_change(node: SyncNode, store: Store) -> None:
    bucket = store.open().bucket
    reader = Reader(store.open(), node)
    sealed: dict[str, str] = {}
    for turn in range(4):
        write_hostile(node, 100, seed=turn)
        wait_until(lambda turn=turn: reader.read() == 100 * (turn + 1), every=0.1, what="lines are read")
        stored = bucket.get(node.keys.tail(1, 0))
        assert stored is not None
        for offset in Tail.from_body(stored.body).segments:
            segment = bucket.get(node.keys.segment(1, 0, offset))
            assert segment is not None
            assert len(segment.body) >= SEAL_SIZE
            assert sealed.setdefault(node.keys.segment(1, 0, offset), segment.etag) == segment.etag
    assert sealed


def test_a_line_longer_than_a_segment_goes_through_between_short_ones(node: SyncNode, store: Store) -> None:
    node.log_event("line", i=0, text="short")
    node.log_event("line", i=1, text="x" * (SEGMENT_LIMIT + 100_000))
    node.log_event("line", i=2, text="short")
    node.call(Finish(timeout=30))
    reader = Reader(store.open(), node)
    reader.read()
    assert numbers(reader.events) == [0, 1, 2]


def test_half_a_line_waits_and_a_broken_one_becomes_a_note(node: SyncNode, store: Store) -> None:
    reader = Reader(store.open(), node)
    node.log_event("line", i=0, text="whole")
    node.log_bytes(b'{"t": 1.0, "k": "li')
    wait_until(lambda: reader.read() == 1)
    node.log_bytes(b"\n")
    node.log_event("line", i=2, text="whole")
    wait_until(lambda: reader.read() == 3)
    assert [event.kind for event in reader.events] == ["line", "note", "line"]
    assert 'broken line in the event log of node 0: {"t": 1.0, "k": "li' in reader.events[1].data["text"]


def test_a_log_can_be_adopted_from_another_node(node: SyncNode, store: Store, tmp_path: Path) -> None:
    lines = [Event(time=float(i), kind="line", node=3, data={"i": i, "rank": 0, "text": "☃"}).to_line() for i in range(1000)]
    log = tmp_path / "events of node 3.jsonl"
    log.write_text("".join(lines), encoding="utf-8")
    node.call(StoreEventLog(node=3, path=str(log), timeout=20))
    node.call(StoreEventLog(node=3, path=str(log), timeout=20))
    reader = Reader(store.open(), node, number=3)
    reader.read()
    assert numbers(reader.events) == list(range(1000))


def test_no_log_in_the_store_reads_as_empty(store: Store) -> None:
    assert list(store.open().events("nobody", 1, 1, 0)) == []
