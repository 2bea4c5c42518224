"""Selects the lines of a run for its Airflow task log: rank 0 and every error, at a bounded rate."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from muster.core import event as kinds
from muster.core.event import Event
from muster.core.verdict import signal_name

LINES_PER_SECOND = 200

_ERROR = re.compile(r"\b\w*(?:Error|Exception)\b|^(?:ERROR|CRITICAL|FATAL)\b|\b(?:error|fatal): ")
_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line for the task log."""

    level: int
    text: str


class TaskLogFilter:
    """Turns a run's events into lines of the task log; tracks which ranks are inside a traceback."""

    def __init__(self, run: str, *, per_second: int = LINES_PER_SECOND, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._rate_limit = RateLimit(per_second, clock)
        self._tracebacks: set[int] = set()
        self._first = 0  # the rank that is rank 0, which in an elastic run may be on any node

    def lines(self, event: Event) -> Iterator[Line]:
        """Return the lines to show for an event, usually one or none."""
        line = self._line(event)
        if line is None:
            return
        rated = event.kind == kinds.LINE
        if rated and not self._rate_limit.acquire():
            return
        yield from self.rest()
        yield line

    def rest(self) -> Iterator[Line]:
        """Yield a note of the lines left out since the last one, if there are any."""
        left_out = self._rate_limit.consume_left_out()
        if left_out:
            yield Line(level=logging.WARNING, text=f"{left_out} lines left out here; see `muster logs {self._run}`")

    def _line(self, event: Event) -> Line | None:
        data = event.data
        if event.kind == kinds.RANK_START and data.get("number") == 0:
            self._first = data["rank"]
        if event.kind == kinds.LINE:
            return self._rank_line(data["rank"], data["text"])
        if event.kind in (kinds.STATE, kinds.END):
            reason = f": {data['reason']}" if data.get("reason") else ""  # reason of the wait
            return Line(level=logging.INFO, text=f"run {self._run} is {data['state']}{reason}")
        if event.kind == kinds.NOTE:
            return Line(level=_LEVELS.get(data.get("level", ""), logging.INFO), text=f"[node {event.node}] {data['text']}")
        if event.kind == kinds.RANK_END:
            return _ending(event)
        return None

    def _rank_line(self, rank: int, text: str) -> Line | None:
        error = self._is_error(rank, text)
        if rank != self._first and not error:
            return None
        return Line(level=logging.ERROR if error else logging.INFO, text=f"[rank {rank}] {text}")

    def _is_error(self, rank: int, text: str) -> bool:
        if "Traceback (most recent call last)" in text:
            self._tracebacks.add(rank)
            return True
        if rank in self._tracebacks:
            if text and not text[0].isspace():  # the exception's own line ends it
                self._tracebacks.discard(rank)
            return True
        return bool(_ERROR.search(text))


class RateLimit:
    """Limits the number of lines per second, and counts those left out."""

    def __init__(self, per_second: int, clock: Callable[[], float]) -> None:
        self._per_second = per_second
        self._clock = clock
        self._window = 0.0
        self._passed = 0
        self._left_out = 0

    def acquire(self) -> bool:
        """Return whether one more line may pass now."""
        now = self._clock()
        if now - self._window >= 1.0:
            self._window, self._passed = now, 0
        if self._passed >= self._per_second:
            self._left_out += 1
            return False
        self._passed += 1
        return True

    def consume_left_out(self) -> int:
        """Return the number of lines left out since the last call, and reset it."""
        count, self._left_out = self._left_out, 0
        return count


def _ending(event: Event) -> Line | None:
    data = event.data
    if data.get("signal") is None and not data.get("exit_code"):
        return None
    how = (
        f"signal {data['signal']} {signal_name(data['signal'])}"
        if data.get("signal") is not None
        else f"exit {data['exit_code']}"
    )
    return Line(level=logging.ERROR, text=f"[rank {data['rank']}] on node {event.node} ended: {how}")
