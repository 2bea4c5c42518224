"""The one loop that watches jobs: takes news from the inbox, yields events, has lost nodes started again."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Protocol

from muster.core.event import Cursor, Event
from muster.core.handle import JobHandle
from muster.targets.watch.inbox import Inbox
from muster.targets.watch.job_watch import JobWatch
from muster.targets.watch.news import News
from muster.targets.watch.timing import WatchTiming


class Feed(Protocol):
    """A target's source of news of the jobs of one session; puts them into the inbox from its own threads or loop."""

    async def open(self, cursors: Mapping[JobHandle, Cursor], inbox: Inbox) -> list[JobWatch]:
        """Start to report; return the watch of each job."""
        ...

    def restart_node(self, watch: JobWatch, node: int) -> None:
        """Start a lost node of an elastic run again, and report its log on."""
        ...

    async def finish(self, watch: JobWatch) -> None:
        """Finish a job that is over, before its END is yielded."""
        ...

    def close(self) -> None:
        """Remove a listener."""
        ...


class WatchSession:
    """Watches many jobs of one target; ``feed`` makes the source of their news."""

    def __init__(self, feed: Callable[[], Feed], timing: WatchTiming) -> None:
        self._new_feed = feed
        self._timing = timing

    async def watch(self, cursors: Mapping[JobHandle, Cursor]) -> AsyncIterator[tuple[JobHandle, Cursor, Event]]:
        """Yield all jobs' events; see :class:`muster.targets.contract.Session`.

        :raises UnknownRun: the target has no such attempt (any more).
        :raises MusterError: a job can't be watched, however often it is tried.
        """
        inbox, feed = Inbox(self._timing.inbox_size), self._new_feed()
        try:
            watches = {watch.handle: watch for watch in await feed.open(cursors, inbox)}
            checked = time.monotonic()
            while open_ := [watch for watch in watches.values() if not watch.over]:
                item = await inbox.take(self._timing.tick)
                if item is not None:
                    watch = watches[item[0]]
                    for event in self._events(watch, item[1], feed):
                        yield watch.handle, watch.cursor, event
                if item is None or time.monotonic() > checked + self._timing.tick:
                    checked = time.monotonic()
                else:
                    open_ = [watch]
                for watch in open_:
                    async for event in self._last_events(watch, feed):
                        yield watch.handle, watch.cursor, event
        finally:
            inbox.close()
            feed.close()

    @staticmethod
    def _events(watch: JobWatch, news: News, feed: Feed) -> Iterator[Event]:
        """Yield what news bring, unless the job is over by now; have nodes that the run wants back started again."""
        if not watch.over:
            yield from watch.consume(news)
            for node in watch.nodes_to_restart():
                feed.restart_node(watch, node)

    @staticmethod
    async def _last_events(watch: JobWatch, feed: Feed) -> AsyncIterator[Event]:
        """Yield the last events of a job if it is over by now."""
        if watch.concluded and not watch.over:
            await feed.finish(watch)
            for event in watch.conclude():
                yield event
