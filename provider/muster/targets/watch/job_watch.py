"""Turns the news of one job into events and knows when the job is over; the same for all targets."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from muster.core.codec import from_data, to_data
from muster.core.event import END, NODE_END, NOTE, STATE, Cursor, Event, note, read_lines
from muster.core.handle import JobHandle
from muster.core.state import RunState
from muster.core.verdict import Cause, Verdict
from muster.targets.watch.news import End, Failed, Lines, News, NodeEnded, NodeRestarted, NodesAssigned, Note, State
from muster.targets.watch.timing import WatchTiming


class JobWatch:
    """Reads one job's logs; holds its END back until no node is left, so that nothing comes after it.

    ``cursor`` is after the event that was yielded last. A cursor never passes an END or NODE_END that is held back: whoever
    goes on from it reads them again.
    """

    def __init__(self, handle: JobHandle, cursor: Cursor, timing: WatchTiming) -> None:
        self.handle = handle
        self.over = False
        self._timing = timing
        self._handlers: Mapping[type[News], Callable[[Any], Iterable[Event]]] = {
            NodesAssigned: self._on_nodes,
            Lines: self._on_lines,
            NodeEnded: self._on_node_end,
            NodeRestarted: self._on_node_restarted,
            Note: self._on_note,
            State: self._on_state,
            End: self._on_end,
            Failed: self._fail,
        }
        self._reset(handle.attempt, cursor)

    def _reset(self, attempt: int, cursor: Cursor, hosts: tuple[str, ...] = ()) -> None:
        """Watch an attempt from its cursor, from its beginning if the cursor is another attempt's."""
        self.cursor = Cursor(attempt=attempt, offsets=cursor.offsets if cursor.attempt == attempt else ())
        self.end: Event | None = None
        self.orderly: set[int] = set()  # nodes whose log has its last event
        self._hosts = hosts
        self._positions: dict[int, int] = {}  # how far each log was read
        self._gone: dict[int, NodeEnded] = {}
        self._losses: dict[int, int] = {}  # nodes that an elastic run does without now, and how often each was lost
        self._restarted: dict[int, int] = {}  # after which loss a node was to be started again
        self._end_seen = 0.0

    def consume(self, news: News) -> Iterator[Event]:
        """Yield the events that news bring, END held back.

        :raises MusterError: the job can't be watched any more.
        """
        if news.attempt in (0, self.cursor.attempt):
            yield from self._handlers[type(news)](news)

    def position(self, node: int) -> int:
        """Return how far a node's log was read, which may be further than the cursor."""
        return self._positions.get(node, self.cursor.offset(node))

    def nodes_to_restart(self) -> list[int]:
        """Return the nodes that an elastic run has lost, of which nothing is left that lives; each once for every loss."""
        if self.over or self.end is not None or 0 in self._gone:
            return []
        most = self._timing.restarts
        lost = [n for n, times in self._losses.items() if n in self._gone and self._restarted.get(n, 0) < times <= most]
        self._restarted.update({node: self._losses[node] for node in lost})
        return lost

    @property
    def concluded(self) -> bool:
        """Return whether the job is over."""
        return self.logs_ended

    @property
    def logs_ended(self) -> bool:
        """Return whether all nodes are gone, or those that are not have had time enough after the END."""
        if self.end is not None and time.monotonic() > self._end_seen + self._timing.end_grace:
            return True
        return len(self._gone) == len(self._hosts) and (bool(self._hosts) or self.end is not None)

    def conclude(self) -> Iterator[Event]:
        """Yield the last events: how nodes were lost that did not end in order, and END, made up if there is none."""
        self.over = True
        for node, text in sorted(self._lost().items()):
            yield note(node, f"{self._name(node)} was lost: {text}", level="error", time=time.time())
        for node in self._positions:
            self.cursor = self.cursor.moved(node, self.position(node))
        yield self._last_end()

    # -- news

    def _on_nodes(self, news: NodesAssigned) -> Iterable[Event]:
        self._hosts = news.hosts
        return ()

    def _on_lines(self, news: Lines) -> Iterator[Event]:
        node, begin = news.node, self.position(news.node)
        self._gone.pop(node, None)  # whoever writes is back
        if news.skipped:
            text = f"the event log of node {node} has a line of {news.skipped} bytes at byte {begin}, too long for an event"
            begin += news.skipped
            self._move(node, begin)
            yield note(node, f"{text}; it was skipped", time=time.time())
        for end, event in read_lines(news.data, node, time.time()):
            self._positions[node] = begin + end
            if event.kind in (END, NODE_END):
                self._hold(node, event)
                continue
            self.orderly.discard(node)
            self._record_loss(event)
            self._move(node, begin + end)
            yield event
        self._positions[node] = begin + len(news.data)

    def _move(self, node: int, position: int) -> None:
        self._positions[node] = position
        if node or self.end is None:
            self.cursor = self.cursor.moved(node, position)

    def _hold(self, node: int, event: Event) -> None:
        if event.kind == NODE_END:
            self.orderly.add(node)
        else:
            self.end, self._end_seen = event, time.monotonic()

    def _record_loss(self, event: Event) -> None:
        """Keep which nodes of an elastic run its leader does without, and how often each was lost, by the leader's count."""
        if event.kind != NOTE or event.node != 0:
            return
        lost, back, times = (event.data.get(name) for name in ("lost", "back", "times"))
        if isinstance(lost, int):
            self._losses[lost] = times if isinstance(times, int) else 1
        elif isinstance(back, int):
            self._losses.pop(back, None)

    def _on_node_end(self, news: NodeEnded) -> Iterable[Event]:
        self._gone[news.node] = news
        return ()

    def _on_node_restarted(self, news: NodeRestarted) -> Iterable[Event]:
        self._gone.pop(news.node, None)
        self.orderly.discard(news.node)
        return ()

    def _on_note(self, news: Note) -> Iterator[Event]:
        yield note(news.node, news.text, level=news.level, time=time.time())

    def _on_state(self, news: State) -> Iterator[Event]:
        reason = {"reason": news.reason} if news.reason else {}
        yield Event(time=time.time(), kind=STATE, node=0, data={"state": news.state.value, **reason})

    def _on_end(self, news: End) -> Iterable[Event]:
        self.end = news.event
        return ()

    def _fail(self, news: Failed) -> Iterable[Event]:
        raise news.error

    # -- the end

    def _last_end(self) -> Event:
        return self._with_loss(self.end) if self.end is not None else self._made_up_end()

    def _lost(self) -> dict[int, str]:
        """Return how nodes were lost that did not end in order."""
        return {node: gone.how for node, gone in self._gone.items() if gone.how and node not in self.orderly}

    def _host(self, node: int) -> str:
        return self._hosts[node] if node < len(self._hosts) else ""

    def _name(self, node: int) -> str:
        return f"node {node} ({self._host(node)})" if self._host(node) else f"node {node}"

    def _with_loss(self, end: Event) -> Event:
        """Add to a verdict that names a lost node its host and how it was lost."""
        verdict = from_data(Verdict, end.data["verdict"]) if end.data["verdict"] else None
        lost = self._lost()
        if verdict is None or verdict.cause is not Cause.NODE or verdict.node is None or verdict.node not in lost:
            return end
        how = lost[verdict.node]
        named = dataclasses.replace(
            verdict,
            host=verdict.host or self._host(verdict.node),
            hint=verdict.hint or ("" if how in verdict.detail else how),
            out_of_memory=verdict.out_of_memory or self._gone[verdict.node].out_of_memory,
        )
        return dataclasses.replace(end, data={**end.data, "verdict": to_data(named)})

    def _made_up_end(self) -> Event:
        """Return the END that the leader did not write."""
        how = self._lost().get(0, "its log ends without an end of the run")
        memory = 0 in self._gone and self._gone[0].out_of_memory
        detail = f"{self._name(0)} was lost: {how}; all ranks were ended"
        verdict = Verdict(cause=Cause.NODE, node=0, host=self._host(0), detail=detail, out_of_memory=memory)
        return make_end(RunState.FAILED, verdict)


def make_end(state: RunState, verdict: Verdict) -> Event:
    """Return an END for a run whose agents wrote none."""
    data: dict[str, Any] = {"state": state.value, "verdict": to_data(verdict), "manifest": None, "digest": None}
    return Event(time=time.time(), kind=END, node=0, data={**data, "uri": "", "metrics": {}, "files": 0})
