"""JobWatch: which lost nodes are wanted back, where a cursor stands, and what is made of lines that are no events."""

from __future__ import annotations

from typing import Any

import pytest

from muster.core.event import END, NODE_END, NOTE, Cursor, Event
from muster.core.handle import JobHandle
from muster.targets.watch.job_watch import JobWatch
from muster.targets.watch.news import Lines, NodeEnded, NodeRestarted, NodesAssigned
from muster.targets.watch.timing import WatchTiming

TIMING = WatchTiming()


@pytest.fixture
def watch() -> JobWatch:
    return watcher()


def watcher() -> JobWatch:
    """Return what watches a run of three nodes from its beginning."""
    handle = JobHandle(target="local", job_id="job", generation=1, attempt=1, plan_digest="", store="s3://none")
    watch = JobWatch(handle, Cursor(), TIMING)
    list(watch.consume(NodesAssigned(hosts=("", "", ""))))
    return watch


def report(watch: JobWatch, kind: str = NOTE, **data: Any) -> None:
    """Have the leader log an event."""
    texts = {NOTE: {"text": ""}, END: {"state": "Completed", "verdict": None}}
    line = Event(time=1.0, kind=kind, node=0, data={**texts[kind], **data}).to_line().encode()
    list(watch.consume(Lines(node=0, data=line)))


def end(watch: JobWatch, node: int) -> None:
    """Report that nothing of a node is left."""
    list(watch.consume(NodeEnded(node=node)))


def test_a_lost_node_is_wanted_back_once_nothing_of_it_is_left_and_once_for_every_loss(watch: JobWatch) -> None:
    report(watch, lost=2, times=1)
    assert watch.nodes_to_restart() == []
    end(watch, 2)
    assert watch.nodes_to_restart() == [2]
    assert watch.nodes_to_restart() == []
    list(watch.consume(NodeRestarted(node=2)))
    report(watch, back=2)
    end(watch, 2)
    assert watch.nodes_to_restart() == []
    report(watch, lost=2, times=2)
    assert watch.nodes_to_restart() == [2]


def test_whoever_watches_only_now_knows_how_often_it_was_lost_before(watch: JobWatch) -> None:
    report(watch, lost=1, times=TIMING.restarts)
    end(watch, 1)
    assert watch.nodes_to_restart() == [1]
    report(watch, lost=1, times=TIMING.restarts + 1)
    assert watch.nodes_to_restart() == []


def test_a_node_that_somebody_else_has_brought_back_is_not_wanted(watch: JobWatch) -> None:
    report(watch, lost=1, times=1)
    report(watch, back=1)
    end(watch, 1)
    assert watch.nodes_to_restart() == []


def test_nobody_is_wanted_back_by_a_run_that_has_ended_or_lost_its_leader(watch: JobWatch) -> None:
    report(watch, lost=1, times=1)
    end(watch, 1)
    end(watch, 0)
    assert watch.nodes_to_restart() == []
    ended = watcher()
    report(ended, lost=1, times=1)
    end(ended, 1)
    report(ended, END)
    assert ended.nodes_to_restart() == []


def log(*lines: bytes | Event) -> bytes:
    return b"".join(line if isinstance(line, bytes) else line.to_line().encode() for line in lines)


def event(kind: str, node: int = 0, **data: Any) -> Event:
    return Event(time=1.0, kind=kind, node=node, data=data)


COMPLETED = event(END, state="Completed", verdict=None)


@pytest.mark.parametrize("line", [b"5", b"[]", b"null", b'{"t": 1, "k": "end"}', b'{"t": 1, "k": "end", "n": 0}', b"[" * 99999])
def test_a_line_that_is_no_event_becomes_a_note_and_the_next_is_read(watch: JobWatch, line: bytes) -> None:
    data = log(line + b"\n", event(NOTE, text="next"))
    first, second = watch.consume(Lines(node=1, data=data))
    assert first.data["text"].startswith("a broken line in the event log of node 1: ")
    assert second.data["text"] == "next"
    assert watch.cursor.offset(1) == len(data)


def test_a_line_that_is_too_long_becomes_a_note_and_the_cursor_is_behind_it(watch: JobWatch) -> None:
    data = log(event(NOTE, text="next"))
    first, second = watch.consume(Lines(node=1, data=data, skipped=400_000_000))
    assert "400000000 bytes at byte 0" in first.data["text"]
    assert second.data["text"] == "next"
    assert watch.cursor.offset(1) == 400_000_000 + len(data)


def test_a_cursor_never_passes_an_end_that_is_held_back(watch: JobWatch) -> None:
    end_line = log(COMPLETED, event(NOTE, text="afterwards"), event(NODE_END))
    list(watch.consume(Lines(node=0, data=end_line)))
    late = log(event(NOTE, 1, text="late"))
    list(watch.consume(Lines(node=1, data=late + log(event(NODE_END, 1)))))
    assert watch.cursor.offset(0) == 0, "whoever goes on from here reads the END again"
    assert watch.cursor.offset(1) == len(late), "and the last event of a node"
    again = watcher()
    again.cursor = watch.cursor
    list(again.consume(Lines(node=0, data=end_line)))
    for node in range(3):
        end(again, node)
    assert again.concluded
    assert list(again.conclude()) == [COMPLETED]
    assert again.cursor.offset(0) == len(end_line)


def test_lost_nodes_are_named_once_the_job_is_over() -> None:
    watch = watcher()
    list(watch.consume(NodesAssigned(hosts=("a", "b", "c"))))
    verdict = {"cause": "node", "node": 1, "detail": "node 1 was lost"}
    list(watch.consume(Lines(node=0, data=log(event(END, state="Failed", verdict=verdict), event(NODE_END)))))
    list(watch.consume(NodeEnded(node=0, how="its container ended")))
    list(watch.consume(NodeEnded(node=1, how="the host was rebooted", out_of_memory=True)))
    list(watch.consume(NodeEnded(node=2)))
    note, last = watch.conclude()
    assert (note.node, note.data["text"]) == (1, "node 1 (b) was lost: the host was rebooted")
    named = last.data["verdict"]
    assert (named["host"], named["hint"], named["out_of_memory"]) == ("b", "the host was rebooted", True)


def test_an_end_is_made_up_for_a_leader_that_wrote_none() -> None:
    watch = watcher()
    for node in range(3):
        list(watch.consume(NodeEnded(node=node, how="" if node else "agent and guardian are gone without a word")))
    *_, last = watch.conclude()
    assert last.kind == END
    assert last.data["verdict"]["detail"] == (
        "node 0 was lost: agent and guardian are gone without a word; all ranks were ended"
    )
