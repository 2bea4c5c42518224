"""LocalSession: watches jobs of this machine by reading their nodes' event logs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

from muster.core.event import Cursor, Event
from muster.core.handle import JobHandle
from muster.core.paths import NodePaths
from muster.targets.job_watch import JobWatch
from muster.targets.local.nodes import alive, sweep

FASTEST, SLOWEST = 0.02, 0.25  # seconds between two looks, while something happens and while nothing does
LIVENESS = 0.25  # seconds between two looks whether the agents live
READ_SIZE = 1 << 20  # bytes of one log taken at one look, so that a talkative job can't starve the others

NodesOf = Callable[[JobHandle], tuple[list[NodePaths], float]]
BringBack = Callable[[JobHandle, int], bool]


class LocalSession:
    """``nodes_of`` gives the node folders of a job and when it was submitted; ``bring_back`` starts the agent of a lost node
    again, and says whether it did.
    """

    def __init__(self, nodes_of: NodesOf, bring_back: BringBack) -> None:
        self._nodes_of = nodes_of
        self._bring_back = bring_back

    async def watch(self, cursors: Mapping[JobHandle, Cursor]) -> AsyncIterator[tuple[JobHandle, Cursor, Event]]:
        """Yield all jobs' events; see :class:`muster.targets.contract.Session`."""
        jobs = [LocalWatch(handle, cursor, *self._nodes_of(handle)) for handle, cursor in cursors.items()]
        pause = FASTEST
        while jobs:
            seen = False
            for job in jobs:
                for event in job.look():
                    seen = True
                    yield job.handle, job.cursor, event
                for node in job.wanted_back():
                    await asyncio.to_thread(self._bring_back, job.handle, node)
            jobs = [job for job in jobs if not job.over]
            pause = FASTEST if seen else min(pause * 1.3, SLOWEST)
            if jobs:
                await asyncio.sleep(pause)


class LocalWatch(JobWatch):
    """Looks at one job's logs and at whether its agents live."""

    def __init__(self, handle: JobHandle, cursor: Cursor, nodes: list[NodePaths], submitted: float) -> None:
        super().__init__(handle, cursor, len(nodes))
        self._paths = nodes
        self._submitted = submitted
        self._lived: list[bool] = []
        self._lived_at = float("-inf")

    def look(self) -> Iterator[Event]:
        """Yield what is new; the last time, with END at its end."""
        living = self._living()  # before reading: a death after it is found next time
        for node, paths in enumerate(self._paths):
            data = self._read(node, paths)
            yield from self.take(node, data)
            if not living[node] and not data:
                self.fall_silent(node)
        yield from self._last()

    def _living(self) -> list[bool]:
        """Look which nodes live; not at every look, unless the end has been seen and only their leaving is awaited."""
        now = time.monotonic()
        if self.end is not None or now > self._lived_at + LIVENESS:
            self._lived, self._lived_at = [alive(paths, self._submitted) for paths in self._paths], now
        return self._lived

    def _read(self, node: int, paths: NodePaths) -> bytes:
        """Give the next whole lines of a log."""
        try:
            with paths.events.open("rb") as file:
                file.seek(self.cursor.offset(node))
                data = file.read(READ_SIZE)
                while data and b"\n" not in data and (more := file.read(READ_SIZE)):
                    data += more
        except FileNotFoundError:
            return b""
        return data[: data.rfind(b"\n") + 1]

    def _last(self) -> list[Event]:
        if not self.concluded:
            return []
        if len(self.orderly) < len(self._paths):
            sweep(self.handle.id.marker)
        return [self.conclusion()]
