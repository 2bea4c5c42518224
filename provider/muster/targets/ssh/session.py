"""SshSession: watches jobs on hosts: waits for their turn with them, then hears their nodes' logs from the hosts' hubs."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from muster.core.codec import from_data, to_data
from muster.core.event import NOTE, STATE, Cursor, Event
from muster.core.handle import JobHandle
from muster.core.verdict import Cause, Verdict
from muster.targets.hosts.background import Background
from muster.targets.job_watch import JobWatch
from muster.targets.ssh.end_events import lost
from muster.targets.ssh.feed import Follower, News
from muster.targets.ssh.jobs import SshJobs

ROOM = 4 << 20  # bytes of logs that may wait for the one who watches; hosts with more have to wait
TICK = 1.0  # seconds between two looks whether a job is over though a host does not answer
Watched = tuple[JobHandle, Cursor, Event]


class Inbox:
    """What comes from the background loop, for one coroutine of another loop to take."""

    def __init__(self, background: Background) -> None:
        self._loop = asyncio.get_running_loop()
        self._background = background
        self._news: deque[News] = deque()
        self._there = asyncio.Event()
        self._size = 0
        self._counting = threading.Lock()
        self._waiting: list[Any] = []
        self.closed = False

    def put(self, news: News) -> bool:
        """Put something in, from the background loop; False if there is no more room."""
        if self.closed:
            return True
        size = news.size
        with self._counting:
            self._size += size
        self._news.append(news)
        try:
            self._loop.call_soon_threadsafe(self._there.set)
        except RuntimeError:  # the loop of who watches has ended
            self.closed = True
        return self._size < ROOM

    def when_room(self, resume: Any) -> None:
        """Have something called in the background loop once there is room again."""
        self._waiting.append(resume)
        if self._size < ROOM:
            self._let_go()

    async def take(self, limit: float) -> News | None:
        """Give the next news, None if there is none for ``limit`` seconds."""
        while not self._news:  # it may be set for news that has been taken already
            self._there.clear()
            if not self._news:
                try:
                    await asyncio.wait_for(self._there.wait(), limit)
                except TimeoutError:
                    return None
        news = self._news.popleft()
        size = news.size
        with self._counting:
            self._size -= size
        if self._waiting and self._size < ROOM // 2:
            self._background.call(self._let_go)
        return news

    def _let_go(self) -> None:
        waiting, self._waiting = self._waiting, []
        for resume in waiting:
            resume()


@dataclass(frozen=True, kw_only=True)
class SshSession:
    """Many jobs over one connection and one hub for each host, shared with all other sessions of this process."""

    jobs: SshJobs
    background: Background

    async def watch(self, cursors: Mapping[JobHandle, Cursor]) -> AsyncIterator[Watched]:
        """Yield all jobs' events; see :class:`muster.targets.contract.Session`.

        :raises UnknownRun: the hosts know of no such attempt (any more).
        :raises RequestError: a host can't be connected to, however often it is tried: its key, its login, its name.
        """
        inbox = Inbox(self.background)
        watches = {handle: SshWatch(handle, cursor) for handle, cursor in cursors.items()}
        followers = {handle: Follower(self.jobs, handle, watch.cursor, inbox) for handle, watch in watches.items()}
        for follower in followers.values():
            self.background.call(follower.start)
        try:
            while open_ := [watch for watch in watches.values() if not watch.over]:
                news = await inbox.take(TICK)
                if news is None:
                    events = [(watch, event) for watch in open_ for event in watch.last()]
                    for watch, event in events:
                        yield watch.handle, watch.cursor, event
                    continue
                for event in watches[news.handle].hear(news):
                    yield news.handle, watches[news.handle].cursor, event
                for node in watches[news.handle].wanted_back():
                    self.background.call(followers[news.handle].bring_back, node)
        finally:
            inbox.closed = True
            for follower in followers.values():
                self.background.call(follower.stop)


class SshWatch(JobWatch):
    """One job on hosts: knows which hosts its nodes are on, which its verdict may need."""

    def __init__(self, handle: JobHandle, cursor: Cursor) -> None:
        super().__init__(handle, cursor, nodes=0)
        self._hosts: tuple[str, ...] = ()
        self._lost: dict[int, str] = {}  # how nodes were lost that did not say their last word
        self._placed = False

    def hear(self, news: News) -> Iterator[Event]:
        """Take news of the job; yields its events, the last ones too if it is over by that."""
        if news.error is not None:
            raise news.error
        yield from self._heard(news)
        if not news.data:
            yield from self.last()

    def _heard(self, news: News) -> Iterator[Event]:
        if news.hosts:
            self._hosts, self._nodes, self._placed = news.hosts, len(news.hosts), True
        if news.state:
            yield Event(time=time.time(), kind=STATE, node=0, data={"state": news.state.value, "text": news.text})
        if news.text:
            yield Event(time=time.time(), kind=NOTE, node=max(news.node, 0), data={"level": news.level, "text": news.text})
        if news.data:
            yield from self.take(news.node, news.data)
        if news.ending is not None:
            self._take_ending(news.node, news.ending)
        if news.again:
            self._lost.pop(news.node, None)
            self.return_of(news.node)
        if news.end is not None:
            self.end = news.end
            self._placed = True

    def _take_ending(self, node: int, ending: Mapping[str, Any]) -> None:
        if node not in self.orderly and not ending.get("orderly"):
            rebooted = "the host was rebooted" if ending.get("rebooted") else "agent and guardian are gone without a word"
            self._lost[node] = str(ending.get("how") or rebooted)
        self.fall_silent(node)

    def last(self) -> list[Event]:
        """Give the last events once all is over: what became of nodes that did not end in order, and END."""
        if self.over or not self._placed or not self.concluded:
            return []
        notes = [
            Event(time=time.time(), kind=NOTE, node=node, data={"level": "error", "text": self._lost_text(node)})
            for node in sorted(self._lost)
        ]
        return [*notes, self._explained(self.conclusion())]

    def _lost_text(self, node: int) -> str:
        return f"node {node} ({self._hosts[node]}) was lost: {self._lost[node]}"

    def _explained(self, end: Event) -> Event:
        """Name the host, and what became of it, in a verdict on a lost node."""
        verdict = from_data(Verdict, end.data["verdict"]) if end.data["verdict"] else None
        if verdict is None or verdict.cause is not Cause.NODE or verdict.node is None or verdict.node not in self._lost:
            return end
        node = verdict.node
        if end is self.end:
            hint = verdict.hint or ("" if self._lost[node] in verdict.detail else self._lost[node])
            told = dataclasses.replace(verdict, host=verdict.host or self._hosts[node], hint=hint)
        else:
            told = lost(node, self._hosts[node], self._lost[node])
        return dataclasses.replace(end, data={**end.data, "verdict": to_data(told)})
