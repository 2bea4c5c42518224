"""Follower: one watched job in the background loop: its turn, its nodes' logs, hosts that fall silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from muster.core.errors import MusterError, TargetError
from muster.core.event import Cursor, Event
from muster.core.handle import JobHandle
from muster.core.state import RunState
from muster.node.host.gang_scheduler import LAUNCHED, WAITING, QueueEntry
from muster.targets.hosts.connection import NodeWatch
from muster.targets.hosts.shell import CommandTimeout
from muster.targets.hosts.ssh_errors import Unreachable
from muster.targets.ssh.jobs import SshJobs
from muster.targets.ssh.node_restart import start_again
from muster.targets.ssh.queue_client import QueuedJob
from muster.targets.ssh.queue_watch import waiting_reason

NOT_RESPONDING = 30.0  # seconds without a host after which the job counts as not responding
GIVEN_UP = 60.0  # seconds without a host after which its node counts as lost, once other nodes of the job have ended
GIVEN_UP_AFTER_END = 10.0  # the same once the run's END has been read
LOOK = 1.0  # seconds between two looks at the connections
LONGEST_PAUSE = 5.0


@dataclass(frozen=True, kw_only=True)
class News:
    """Something to tell of a job; what is set counts.

    ``ending`` of a node, ``again`` of one that has been started again; ``end`` of a run that never had agents.
    """

    handle: JobHandle
    node: int = -1
    data: bytes = b""
    ending: dict[str, Any] | None = None
    again: bool = False
    hosts: tuple[str, ...] = ()
    state: RunState | None = None
    text: str = ""
    level: str = "info"
    end: Event | None = None
    error: MusterError | None = None

    @property
    def size(self) -> int:
        """How much room it takes."""
        return len(self.data)


class Inbox(Protocol):
    """Where news goes."""

    def put(self, news: News) -> bool: ...

    def when_room(self, resume: Callable[[], None]) -> None: ...


class Follower:
    """``start`` and ``stop`` are called in the background loop."""

    def __init__(self, jobs: SshJobs, handle: JobHandle, cursor: Cursor, inbox: Inbox) -> None:
        self._jobs = jobs
        self._handle = handle
        self._cursor = cursor
        self._inbox = inbox
        self._nodes: list[NodeSink] = []
        self._entry: QueueEntry | None = None
        self._count = 0
        self._task: asyncio.Task[None] | None = None
        self._returning: set[asyncio.Task[None]] = set()
        self._told = self._noted = ""
        self._turn: asyncio.Future[None] | None = None
        self._silent = False  # whether "not responding" has been told

    def start(self) -> None:
        """Follow the job."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Follow it no more."""
        for task in (self._task, *self._returning):
            if task is not None:
                task.cancel()
        self._jobs.waiting.leave(self._handle.id, self._hear_queue)
        for node in self._nodes:
            if node.watch is not None:
                node.watch.connection.forget(node.watch)

    async def _run(self) -> None:
        try:
            seen = await self._patiently()
            while seen.live and seen.entry is not None and seen.entry.state != LAUNCHED:
                await self._wait_for_turn()
                seen = await self._patiently()
            if seen.end is not None:
                self._tell(end=seen.end)
            elif seen.entry is not None:
                await self._follow(seen.entry)
        except MusterError as error:
            self._tell(error=error)
        except Exception as error:  # a bug of ours must not leave the one who watches waiting for ever
            self._tell(error=TargetError(f"run {self._handle.job_id} can't be followed: {type(error).__name__}: {error}"))

    async def _patiently(self) -> QueuedJob:
        """Look at the claim place; one that is away is waited for."""
        pause, since = 0.2, time.monotonic()
        while True:
            try:
                seen = await self._jobs.seen(self._handle.id)
            except (Unreachable, CommandTimeout):
                self._note_silence([self._jobs.inventory.hosts[0].name] if time.monotonic() > since + NOT_RESPONDING else [])
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                return seen

    # -- its turn

    async def _wait_for_turn(self) -> None:
        self._turn = asyncio.get_running_loop().create_future()
        self._jobs.waiting.enter(self._handle.id, self._hear_queue)
        try:
            await self._turn
        finally:
            self._jobs.waiting.leave(self._handle.id, self._hear_queue)

    def _hear_queue(self, entry: QueueEntry | MusterError | str | None, entries: list[QueueEntry]) -> None:
        waiting = self._turn is not None and not self._turn.done()
        if isinstance(entry, str):
            if entry != self._noted:
                self._noted = entry
                self._tell(text=entry, level="warning")
            return
        if isinstance(entry, MusterError):
            if self._turn is not None and waiting:
                self._turn.set_exception(entry)
        elif entry is not None and entry.state == WAITING:
            text = waiting_reason(entry, entries)
            if text != self._told:
                state = None if self._told else RunState.QUEUED
                self._told = text
                self._tell(state=state, text=text)
        elif self._turn is not None and waiting:
            self._turn.set_result(None)

    # -- its nodes

    async def _follow(self, entry: QueueEntry) -> None:
        self._entry, self._count = entry, len(entry.allocations)
        self._tell(hosts=tuple(allocation.host for allocation in entry.allocations))
        for node, allocation in enumerate(entry.allocations):
            sink = NodeSink(follower=self, node=node, host=allocation.host)
            self._nodes.append(sink)
            sink.listen(self._jobs.connection(allocation.host).watch(allocation.folder, self._cursor.offset(node), sink))
        while any(not node.over for node in self._nodes):
            await asyncio.sleep(LOOK)
            self._look_at_connections()

    def _look_at_connections(self) -> None:
        """Tell of hosts that have not been heard for long, and give up those without which the job is over."""
        now = time.monotonic()
        away = [node for node in self._nodes if not node.over and node.away_since]
        self._note_silence([node.host for node in away if now > node.away_since + NOT_RESPONDING])
        for node in away:
            patience = GIVEN_UP_AFTER_END if any(other.has_end for other in self._nodes) else GIVEN_UP
            others_ended = any(other.over for other in self._nodes) or any(other.has_end for other in self._nodes)
            passed = "; the run's deadline has passed" if self._entry is not None and self._entry.is_over else ""
            if passed or (others_ended and now > node.away_since + patience):
                node.end({"how": f"host {node.host} does not answer since {now - node.away_since:.0f} s{passed}"})

    def _note_silence(self, hosts: list[str]) -> None:
        if hosts and not self._silent:
            self._silent = True
            text = f"no word from {', '.join(hosts)} for {NOT_RESPONDING:g} s; ranks may well go on there; waiting for it"
            self._tell(state=RunState.NOT_RESPONDING, text=text, level="warning")
        elif not hosts and self._silent:
            self._silent = False
            self._tell(text="all hosts answer again")

    # -- who comes back

    def bring_back(self, node: int) -> None:
        """Have a lost node started again once its host answers, and follow it on."""
        task = asyncio.get_running_loop().create_task(self._bring_back(self._nodes[node]))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _bring_back(self, node: NodeSink) -> None:
        pause = 0.2
        while not self._nodes[0].over and not self._nodes[0].has_end:
            try:
                if await start_again(self._jobs, self._handle, node.node):
                    self._follow_again(node)
                return
            except (Unreachable, CommandTimeout):
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            except Exception as error:  # also of a bug of ours: the run goes on without the node
                self._tell(node=node.node, text=f"node {node.node} can't be started again: {error}", level="warning")
                return

    def _follow_again(self, node: NodeSink) -> None:
        assert node.watch is not None
        self._tell(node=node.node, again=True)
        node.listen(node.watch.connection.watch(node.watch.folder, node.watch.offset, node))

    def _tell(self, **what: Any) -> bool:
        return self._inbox.put(News(handle=self._handle, **what))

    def hear(self, node: NodeSink, **what: Any) -> bool:
        """Pass on what a node's host pushes."""
        return self._tell(node=node.node, **what)

    def settle(self) -> None:
        """Let the queue go on once all hosts have said that nothing of the job is left on them."""
        if len(self._nodes) == self._count and all(node.is_gone for node in self._nodes):
            self._jobs.waiting.settle(self._handle.id)

    def when_room(self, node: NodeSink) -> None:
        """Have a node's log go on once there is room."""
        assert node.watch is not None
        self._inbox.when_room(node.watch.resume)


@dataclass(kw_only=True)
class NodeSink:
    """Hears one node of a followed job."""

    follower: Follower
    node: int
    host: str
    watch: NodeWatch | None = None
    over: bool = False
    has_end: bool = False
    is_gone: bool = False  # its host has said so

    @property
    def away_since(self) -> float:
        """Since when its host is away, by time.monotonic(); 0 if it is not."""
        return self.watch.connection.lost_since if self.watch is not None else 0.0

    def listen(self, watch: NodeWatch) -> None:
        """Hear from now on what is watched for it."""
        self.watch, self.over, self.is_gone = watch, False, False

    def take(self, data: bytes) -> bool:
        """Pass on whole lines."""
        self.has_end = self.has_end or b'"k": "end"' in data
        if self.follower.hear(self, data=data):
            return True
        asyncio.get_running_loop().call_soon(self.follower.when_room, self)
        return False

    def end(self, ending: dict[str, Any]) -> None:
        """Pass on that nothing of the node is left."""
        if not self.over:
            self.over = True
            self.is_gone = "silent" in ending
            if self.watch is not None:
                self.watch.connection.forget(self.watch)
            self.follower.settle()
            self.follower.hear(self, ending=ending)

    def fail(self, error: MusterError) -> None:
        """Pass on that the host can't be connected to."""
        self.follower.hear(self, error=error)
