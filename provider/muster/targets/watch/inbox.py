"""The inbox: carries news from feeds, in whatever thread or loop they run, to the one coroutine that watches."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from muster.core.handle import JobHandle
from muster.targets.watch.news import News


class Inbox:
    """Holds about ``limit`` bytes; a feed that finds no more room waits, and holds up no other."""

    def __init__(self, limit: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._lock = threading.Lock()
        self._news: deque[tuple[JobHandle, News]] = deque()
        self._size = 0
        self._arrived = asyncio.Event()
        self._waiting: list[Callable[[], object]] = []
        self._closed = False

    def put(self, job: JobHandle, news: News) -> bool:
        """Add news, from any thread; return whether there is room for more."""
        with self._lock:
            if self._closed:
                return True
            self._news.append((job, news))
            self._size += news.size
            has_room = self._size < self._limit
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # the loop of whoever watches has ended
            self.close()
        return has_room

    def when_room(self, resume: Callable[[], object]) -> None:
        """Call ``resume`` once there is room: at once, or later in the thread of whoever takes."""
        with self._lock:
            if not self._closed and self._size >= self._limit:
                self._waiting.append(resume)
                return
        resume()

    def wait_for_room(self) -> None:
        """Block this thread until there is room."""
        room = threading.Event()
        self.when_room(room.set)
        room.wait()

    async def take(self, timeout: float) -> tuple[JobHandle, News] | None:
        """Return the next news, None if there is none for ``timeout`` seconds; other tasks of the loop come in between."""
        await asyncio.sleep(0)
        while not self._news:
            self._arrived.clear()
            if not self._news:
                try:
                    await asyncio.wait_for(self._arrived.wait(), timeout)
                except TimeoutError:
                    return None
        with self._lock:
            job, news = self._news.popleft()
            self._size -= news.size
            resumed = self._pop_waiting() if self._size < self._limit // 2 else []
        for resume in resumed:
            resume()
        return job, news

    def close(self) -> None:
        """Drop everything, take nothing more, and let those go on that wait for room."""
        with self._lock:
            self._closed = True
            self._news.clear()
            resumed = self._pop_waiting()
        for resume in resumed:
            resume()

    def _pop_waiting(self) -> list[Callable[[], object]]:
        waiting, self._waiting = self._waiting, []
        return waiting
