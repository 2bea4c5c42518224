"""What of a run its task log shows."""

from __future__ import annotations

import logging

from muster.core.event import Event
from muster.triggers.task_log import TaskLogFilter


def line(rank: int, text: str) -> Event:
    return Event(time=0.0, kind="line", node=0, data={"rank": rank, "text": text})


def shown(excerpt: TaskLogFilter, *events: Event) -> list[str]:
    return [line.text for event in events for line in excerpt.lines(event)]


def test_rank_0_is_shown_and_other_ranks_are_not() -> None:
    assert shown(TaskLogFilter("r"), line(0, "loss 1.0"), line(1, "loss 1.0"), line(2, "")) == ["[rank 0] loss 1.0"]


def test_in_an_elastic_run_the_rank_is_shown_that_counts_as_0_for_now() -> None:
    def start(rank: int, number: int) -> Event:
        return Event(time=0.0, kind="rank_start", node=rank, data={"rank": rank, "pid": 1, "number": number})

    rounds = [start(0, 1), start(1, 0), line(0, "a"), line(1, "b"), start(0, 0), line(0, "c"), line(1, "d")]
    assert shown(TaskLogFilter("r"), *rounds) == ["[rank 1] b", "[rank 0] c"]


def test_a_whole_traceback_of_another_rank_is_shown() -> None:
    traceback = ["Traceback (most recent call last):", '  File "train.py", line 1', "    fail()", "ValueError: no"]
    events = [line(3, "fine"), *(line(3, text) for text in traceback), line(3, "fine again")]
    assert shown(TaskLogFilter("r"), *events) == [f"[rank 3] {text}" for text in traceback]


def test_tracebacks_of_two_ranks_may_be_mixed() -> None:
    head, end = "Traceback (most recent call last):", "RuntimeError: x"
    events = [line(1, head), line(2, head), line(1, "  a"), line(1, end), line(1, "ok"), line(2, "  b"), line(2, end)]
    assert len(shown(TaskLogFilter("r"), *events)) == 6


def test_words_that_only_sound_like_errors_are_no_errors() -> None:
    assert shown(TaskLogFilter("r"), line(1, "error rate 0.1"), line(1, "no errors"), line(1, "terror")) == []


def test_errors_have_the_level_of_errors() -> None:
    [ending] = TaskLogFilter("r").lines(
        Event(time=0, kind="rank_end", node=1, data={"rank": 1, "exit_code": None, "signal": 9})
    )
    assert (ending.level, ending.text) == (logging.ERROR, "[rank 1] on node 1 ended: signal 9 SIGKILL")
    assert list(TaskLogFilter("r").lines(Event(time=0, kind="rank_end", node=1, data={"rank": 1, "exit_code": 0}))) == []


def test_lines_beyond_the_rate_are_counted_and_pointed_to() -> None:
    now = [0.0]
    excerpt = TaskLogFilter("run-1", per_second=2, clock=lambda: now[0])
    first = shown(excerpt, *(line(0, str(number)) for number in range(5)))
    now[0] = 1.5
    assert first == ["[rank 0] 0", "[rank 0] 1"]
    assert shown(excerpt, line(0, "5")) == ["3 lines left out here; see `muster logs run-1`", "[rank 0] 5"]


def test_states_and_notes_are_shown_also_beyond_the_rate_and_point_to_the_rest() -> None:
    excerpt = TaskLogFilter("run-1", per_second=1, clock=lambda: 0.0)
    shown(excerpt, line(0, "0"), line(0, "1"))
    state = Event(time=0, kind="state", node=0, data={"state": "Finalizing"})
    assert shown(excerpt, state) == ["1 lines left out here; see `muster logs run-1`", "run run-1 is Finalizing"]
    assert list(excerpt.rest()) == []
