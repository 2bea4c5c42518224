"""DockerSession: watches jobs of an engine; every node's events are pushed to us by a relay in its container."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from muster.core.codec import from_data, to_data
from muster.core.errors import UnknownRun
from muster.core.event import NOTE, Cursor, Event
from muster.core.handle import JobHandle
from muster.core.verdict import Cause, Verdict
from muster.targets.docker.containers import Attempt, Jobs
from muster.targets.docker.engine import Engine
from muster.targets.docker.errors import Unreachable
from muster.targets.docker.log_reader import Ending, NodeReader
from muster.targets.docker.node_restart import Again, Return
from muster.targets.docker.outage import Outage
from muster.targets.job_watch import LAST_WORDS, JobWatch

if TYPE_CHECKING:
    from docker import APIClient

WAITING = 1024  # messages that may wait for the one who watches; a faster node has to wait
Watched = tuple[JobHandle, Cursor, Event]


class DockerSession:
    """One client for many jobs; a thread for every node's stream, since the SDK blocks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def watch(self, cursors: Mapping[JobHandle, Cursor]) -> AsyncIterator[Watched]:
        """Yield all jobs' events; see :class:`muster.targets.contract.Session`.

        :raises UnknownRun: the engine has no such attempt (any more).
        :raises TargetError: the engine has not answered for a long time.
        """
        inbox = Inbox()
        found: dict[JobHandle, Attempt] = {}
        async for text in self._look(cursors, found):
            for handle, cursor in cursors.items():
                yield handle, cursor, _note(0, text)
        watches = [DockerWatch(handle, cursor, found[handle]) for handle, cursor in cursors.items()]
        readers: list[NodeReader | Return] = [r for watch in watches for r in watch.readers(self._engine, inbox)]
        try:
            for reader in readers:
                reader.start()
            async for watch, event in _merged(watches, inbox):
                if event is not None:
                    yield watch.handle, watch.cursor, event
                for returning in watch.returns(self._engine, inbox):
                    readers.append(returning)
                    returning.start()
        finally:
            inbox.close()
            for reader in readers:
                reader.stop()

    async def _look(self, handles: Iterable[JobHandle], found: dict[JobHandle, Attempt]) -> AsyncIterator[str]:
        """Find the attempts of all handles, as patient with the engine as readers are; yields what is to be told of it."""
        told: list[str] = []
        outage = Outage(self._engine, told.append)
        for handle in handles:
            while handle not in found:
                client, pause = None, 0.0
                try:
                    client = await asyncio.to_thread(lambda: self._engine.client)
                    found[handle] = await self._attempt(handle, client)
                    outage.over()
                except Unreachable as error:
                    pause = outage.goes_on(error, client)
                while told:
                    yield told.pop(0)
                await asyncio.sleep(pause)

    async def _attempt(self, handle: JobHandle, client: APIClient) -> Attempt:
        attempts = await asyncio.to_thread(Jobs(client, self._engine.url).attempts, handle.job_id)
        for attempt in attempts:
            if attempt.id == handle.id:
                return attempt
        raise UnknownRun(
            f"no attempt {handle.attempt} of run {handle.job_id!r} on {self._engine.url}; `muster show` tells what is stored"
        )


class Inbox:
    """What readers' threads put in and one coroutine takes out."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Any] = asyncio.Queue(WAITING)
        self._closed = False

    def put(self, message: Any) -> None:
        """Put in a message, from another thread; waits while there are too many."""
        if not self._closed:
            with contextlib.suppress(CancelledError, RuntimeError):  # the loop has ended meanwhile
                asyncio.run_coroutine_threadsafe(self._queue.put(message), self._loop).result()

    async def take(self, limit: float) -> Any:
        """Give the next message, None if there is none for ``limit`` seconds."""
        try:
            return await asyncio.wait_for(self._queue.get(), limit)
        except TimeoutError:
            return None

    def close(self) -> None:
        """Take no more; readers that wait are let go."""
        self._closed = True
        while not self._queue.empty():
            self._queue.get_nowait()


async def _merged(watches: list[DockerWatch], inbox: Inbox) -> AsyncIterator[tuple[DockerWatch, Event | None]]:
    """Yield what the readers bring, each job ended by its END; no event where something else is to be known of a job."""
    while open_ := [watch for watch in watches if not watch.over]:
        limit = LAST_WORDS if all(watch.end is None for watch in open_) else 1.0
        message = await inbox.take(limit)
        if isinstance(message, BaseException):
            raise message
        if message is not None:
            watch, node, news = message
            for event in watch.hear(node, news):
                yield watch, event
            yield watch, None
        for watch in open_:
            if watch.concluded:
                for event in watch.last():
                    yield watch, event


class DockerWatch(JobWatch):
    """One job on an engine: knows what became of its containers, which its verdict may need."""

    def __init__(self, handle: JobHandle, cursor: Cursor, attempt: Attempt) -> None:
        nodes = attempt.claim.nodes if attempt.claim is not None else len(attempt.containers)
        super().__init__(handle, cursor, nodes)
        self._containers = {container.node: container for container in attempt.containers}
        self._endings: dict[int, Ending] = {}

    def readers(self, engine: Engine, inbox: Inbox) -> list[NodeReader]:
        """Give a reader for every node; a node without a container has been lost already."""
        for node in range(self._nodes):
            if node not in self._containers:
                self._note_ending(node, Ending(name=f"of node {node}", found=False))
        return [self._reader(engine, inbox, node) for node in self._containers]

    def returns(self, engine: Engine, inbox: Inbox) -> list[Return]:
        """Give what starts the containers of nodes again that the run wants back, and reads on there."""
        wanted = [node for node in self.wanted_back() if node in self._containers]
        return [Return(engine, self.handle, node, self._reader(engine, inbox, node)) for node in wanted]

    def _reader(self, engine: Engine, inbox: Inbox, node: int) -> NodeReader:
        return NodeReader(engine, self._containers[node], self.cursor.offset(node), self._teller(inbox, node))

    def _teller(self, inbox: Inbox, node: int) -> Any:
        def tell(news: Any) -> None:
            inbox.put(news if isinstance(news, BaseException) else (self, node, news))

        return tell

    def hear(self, node: int, news: bytes | str | Ending | Again) -> Iterator[Event]:
        """Take a node's log, a note on the way to it, its end, or that it has been started again."""
        if isinstance(news, bytes):
            yield from self.take(node, news)
        elif isinstance(news, str):
            yield _note(node, news)
        elif isinstance(news, Again):
            self._endings.pop(node, None)
            self.return_of(node)
        else:
            self._note_ending(node, news)

    def _note_ending(self, node: int, ending: Ending) -> None:
        self._endings[node] = ending
        if node == 0:
            self.leader_lost = f"node 0 was lost: {ending.text}"
        self.fall_silent(node)

    def last(self) -> list[Event]:
        """Give the last events: what became of containers that did not end in order, and END."""
        notes = [
            Event(time=time.time(), kind=NOTE, node=node, data={"level": "error", "text": ending.text})
            for node, ending in sorted(self._endings.items())
            if node not in self.orderly
        ]
        return [*notes, self._explained(self.conclusion())]

    def _explained(self, end: Event) -> Event:
        """Add to a verdict that names a lost node what its container has to say."""
        verdict = from_data(Verdict, end.data["verdict"]) if end.data["verdict"] else None
        if verdict is None or verdict.cause is not Cause.NODE or verdict.node is None:
            return end
        ending = self._endings.get(verdict.node)
        if ending is None or verdict.node in self.orderly:
            return end
        hint = verdict.hint or ("" if ending.text in verdict.detail else ending.text)
        told = dataclasses.replace(verdict, hint=hint, out_of_memory=verdict.out_of_memory or ending.out_of_memory)
        return dataclasses.replace(end, data={**end.data, "verdict": to_data(told)})


def _note(node: int, text: str) -> Event:
    return Event(time=time.time(), kind=NOTE, node=node, data={"level": "warning", "text": text})
