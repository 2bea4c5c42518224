"""JobWatch: which lost nodes are wanted back, and how often."""

from __future__ import annotations

from typing import Any

import pytest

from muster.core.event import END, NOTE, Cursor, Event
from muster.core.handle import JobHandle
from muster.targets.job_watch import RETURNS, JobWatch


@pytest.fixture
def watch() -> JobWatch:
    return watcher()


def watcher() -> JobWatch:
    """Give what watches a run of three nodes from its beginning."""
    handle = JobHandle(target="local", job_id="job", generation=1, attempt=1, plan_digest="", store="s3://none")
    return JobWatch(handle, Cursor(), nodes=3)


def hear(watch: JobWatch, kind: str = NOTE, **data: Any) -> None:
    """Have the leader say something."""
    list(watch.take(0, Event(time=1.0, kind=kind, node=0, data=data).to_line().encode()))


def test_a_lost_node_is_wanted_back_once_nothing_of_it_is_left_and_once_for_every_loss(watch: JobWatch) -> None:
    hear(watch, lost=2, times=1)
    assert watch.wanted_back() == []
    watch.fall_silent(2)
    assert watch.wanted_back() == [2]
    assert watch.wanted_back() == []
    watch.return_of(2)
    hear(watch, back=2)
    watch.fall_silent(2)
    assert watch.wanted_back() == []
    hear(watch, lost=2, times=2)
    assert watch.wanted_back() == [2]


def test_whoever_watches_only_now_knows_how_often_it_was_lost_before(watch: JobWatch) -> None:
    hear(watch, lost=1, times=RETURNS)
    watch.fall_silent(1)
    assert watch.wanted_back() == [1]
    hear(watch, lost=1, times=RETURNS + 1)
    assert watch.wanted_back() == []


def test_a_node_that_somebody_else_has_brought_back_is_not_wanted(watch: JobWatch) -> None:
    hear(watch, lost=1, times=1)
    hear(watch, back=1)
    watch.fall_silent(1)
    assert watch.wanted_back() == []


def test_nobody_is_wanted_back_by_a_run_that_has_ended_or_lost_its_leader(watch: JobWatch) -> None:
    hear(watch, lost=1, times=1)
    watch.fall_silent(1)
    watch.fall_silent(0)
    assert watch.wanted_back() == []
    ended = watcher()
    hear(ended, lost=1, times=1)
    ended.fall_silent(1)
    hear(ended, END)
    assert ended.wanted_back() == []
