"""LocalSession: watches jobs of this machine by reading their nodes' event logs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping

from muster.core.codec import to_data
from muster.core.event import END, NODE_END, Cursor, Event
from muster.core.handle import JobHandle
from muster.core.paths import NodePaths
from muster.core.state import RunState
from muster.core.verdict import Cause, Verdict
from muster.targets.local_nodes import alive, sweep

FASTEST, SLOWEST = 0.02, 0.25  # seconds between two looks, while something happens and while nothing does
LIVENESS = 0.25  # seconds between two looks whether the agents live
READ_SIZE = 1 << 20  # bytes of one log taken at one look, so that a talkative job can't starve the others
LAST_WORDS = 60.0  # seconds that nodes have to end after the run's END event is there

NodesOf = Callable[[JobHandle], tuple[list[NodePaths], float]]


class LocalSession:
    """``nodes_of`` gives the node folders of a job and when it was submitted."""

    def __init__(self, nodes_of: NodesOf) -> None:
        self._nodes_of = nodes_of

    async def watch(self, cursors: Mapping[JobHandle, Cursor]) -> AsyncIterator[tuple[JobHandle, Cursor, Event]]:
        """Yield all jobs' events; see :class:`muster.targets.contract.Session`."""
        jobs = [JobWatch(handle, cursor, *self._nodes_of(handle)) for handle, cursor in cursors.items()]
        pause = FASTEST
        while jobs:
            seen = False
            for job in jobs:
                for event in job.look():
                    seen = True
                    yield job.handle, job.cursor, event
            jobs = [job for job in jobs if not job.over]
            pause = FASTEST if seen else min(pause * 1.3, SLOWEST)
            if jobs:
                await asyncio.sleep(pause)


class JobWatch:
    """Reads one job's logs; holds its END back until no agent is left, so that nothing comes after it."""

    def __init__(self, handle: JobHandle, cursor: Cursor, nodes: list[NodePaths], submitted: float) -> None:
        self.handle = handle
        self.cursor = Cursor(attempt=handle.attempt, offsets=cursor.offsets if cursor.attempt == handle.attempt else ())
        self.over = False
        self._nodes = nodes
        self._submitted = submitted
        self._silent: set[int] = set()
        self._orderly: set[int] = set()
        self._end: Event | None = None
        self._end_seen = 0.0
        self._lived: list[bool] = []
        self._lived_at = float("-inf")

    def look(self) -> list[Event]:
        """Give what is new; the last time, with END at its end."""
        living = self._living()  # before reading: a death after it is found next time
        events: list[Event] = []
        for node, paths in enumerate(self._nodes):
            fresh = self._read(node, paths)
            events += [event for event in fresh if event.kind not in (END, NODE_END)]
            self._note_end(node, fresh)
            if not living[node] and not fresh:
                self._silent.add(node)
        return events + self._conclusion()

    def _living(self) -> list[bool]:
        """Look which nodes live; not at every look, unless the end has been seen and only their leaving is awaited."""
        now = time.monotonic()
        if self._end is not None or now > self._lived_at + LIVENESS:
            self._lived, self._lived_at = [alive(paths, self._submitted) for paths in self._nodes], now
        return self._lived

    def _read(self, node: int, paths: NodePaths) -> list[Event]:
        offset = self.cursor.offset(node)
        try:
            with paths.events.open("rb") as file:
                file.seek(offset)
                data = file.read(READ_SIZE)
                while data and b"\n" not in data and (more := file.read(READ_SIZE)):
                    data += more
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self.cursor = self.cursor.moved(node, offset + len(whole))
        return [event for line in whole.splitlines() if (event := _event(line)) is not None]

    def _note_end(self, node: int, events: list[Event]) -> None:
        for event in events:
            if event.kind == NODE_END:
                self._orderly.add(node)
            elif event.kind == END:
                self._end, self._end_seen = event, time.monotonic()

    def _conclusion(self) -> list[Event]:
        waited = self._end is not None and time.monotonic() > self._end_seen + LAST_WORDS
        if len(self._silent) < len(self._nodes) and not waited:
            return []
        self.over = True
        if len(self._orderly) < len(self._nodes):
            sweep(f"{self.handle.job_id}/g{self.handle.generation}/a{self.handle.attempt}")
        return [self._end or self._made_up_end()]

    def _made_up_end(self) -> Event:
        """Speak for a leader that died together with its guardian."""
        detail = "agent and guardian of node 0 are gone without a word; every process of the run was ended"
        verdict = Verdict(cause=Cause.NODE, node=0, detail=detail)
        data = {"state": RunState.FAILED.value, "verdict": to_data(verdict), "manifest": None, "digest": None}
        return Event(time=time.time(), kind=END, node=0, data={**data, "uri": "", "metrics": {}, "files": 0})


def _event(line: bytes) -> Event | None:
    """Read one line; an agent killed while writing leaves at most one that is no event."""
    try:
        return Event.from_line(line)
    except (ValueError, KeyError):
        return None
