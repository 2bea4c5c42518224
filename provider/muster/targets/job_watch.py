"""JobWatch: turns the bytes of a job's event logs into events and knows when the job is over; the same for all targets."""

from __future__ import annotations

import time
from collections.abc import Iterator

from muster.core.codec import to_data
from muster.core.event import END, NODE_END, NOTE, Cursor, Event
from muster.core.handle import JobHandle
from muster.core.state import RunState
from muster.core.verdict import Cause, Verdict

LAST_WORDS = 60.0  # seconds that nodes have to end after the run's END event is there
RETURNS = 3  # times that a lost node is started again; one that is lost more often would only keep the others busy


class JobWatch:
    """Reads one job's logs; holds its END back until no node is left, so that nothing comes after it.

    ``leader_lost`` is what a made-up END says when node 0 was lost without a word.
    """

    leader_lost = "agent and guardian of node 0 are gone without a word; every process of the run was ended"

    def __init__(self, handle: JobHandle, cursor: Cursor, nodes: int) -> None:
        self.handle = handle
        self.cursor = Cursor(attempt=handle.attempt, offsets=cursor.offsets if cursor.attempt == handle.attempt else ())
        self.over = False
        self.end: Event | None = None
        self.orderly: set[int] = set()  # nodes that said their last word
        self._nodes = nodes
        self._losses: dict[int, int] = {}  # nodes that an elastic run does without now, and how often each was lost
        self._tried: dict[int, int] = {}  # after which loss a node was to be started again
        self._silent: set[int] = set()
        self._end_seen = 0.0

    def take(self, node: int, data: bytes) -> Iterator[Event]:
        """Yield the events of a log's next whole lines, END held back; the cursor is after the event that was yielded last."""
        whole = data[: data.rfind(b"\n") + 1]
        if whole:  # a node that was lost may be back
            self.return_of(node)
        for line in whole.splitlines(keepends=True):
            self.cursor = self.cursor.moved(node, self.cursor.offset(node) + len(line))
            event = _event(line)
            if event is None:
                continue
            if event.kind in (END, NODE_END):
                self._note_end(node, event)
            else:
                self._note_loss(event)
                yield event

    def fall_silent(self, node: int) -> None:
        """Note that a node is gone and its log read to the end."""
        self._silent.add(node)

    def return_of(self, node: int) -> None:
        """Note that a node that was gone has been started again."""
        self._silent.discard(node)
        self.orderly.discard(node)

    def wanted_back(self) -> list[int]:
        """Give the nodes that an elastic run has lost, of which nothing is left that lives; each once for every loss."""
        if self.over or self.end is not None or 0 in self._silent:
            return []
        wanted = [n for n, times in self._losses.items() if n in self._silent and self._tried.get(n, 0) < times <= RETURNS]
        self._tried.update({node: self._losses[node] for node in wanted})
        return wanted

    @property
    def concluded(self) -> bool:
        """Whether all nodes are silent, or those that are not have had time enough after the END."""
        waited = self.end is not None and time.monotonic() > self._end_seen + LAST_WORDS
        return len(self._silent) == self._nodes or waited

    def conclusion(self) -> Event:
        """Give the job's END, made up if its leader was lost together with its guardian."""
        self.over = True
        return self.end or self._made_up_end()

    def _note_loss(self, event: Event) -> None:
        """Keep which nodes of an elastic run its leader does without, and how often each was lost, by the leader's count."""
        if event.kind == NOTE and "lost" in event.data:
            self._losses[event.data["lost"]] = int(event.data.get("times", 1))
        elif event.kind == NOTE and "back" in event.data:
            self._losses.pop(event.data["back"], None)

    def _note_end(self, node: int, event: Event) -> None:
        if event.kind == NODE_END:
            self.orderly.add(node)
        elif event.kind == END:
            self.end, self._end_seen = event, time.monotonic()

    def _made_up_end(self) -> Event:
        verdict = Verdict(cause=Cause.NODE, node=0, detail=self.leader_lost)
        data = {"state": RunState.FAILED.value, "verdict": to_data(verdict), "manifest": None, "digest": None}
        return Event(time=time.time(), kind=END, node=0, data={**data, "uri": "", "metrics": {}, "files": 0})


def last_end(log: bytes) -> Event | None:
    """Give the END event near the end of a leader's log, None if it has not been written."""
    for line in reversed(log.splitlines()):
        if b'"k": "end"' in line and (event := _event(line)) is not None:
            return event
    return None


def _event(line: bytes) -> Event | None:
    """Read one line; an agent killed while writing leaves at most one that is no event."""
    try:
        return Event.from_line(line)
    except (ValueError, KeyError):
        return None
