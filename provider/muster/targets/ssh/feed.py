"""The news of jobs on hosts: their turn in the queue, their nodes' logs, hosts that do not answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping

from muster.core.errors import MusterError
from muster.core.event import Cursor
from muster.core.handle import JobHandle
from muster.core.retry import Backoff, retry_async
from muster.core.state import RunState
from muster.node.host.gang_scheduler import LAUNCHED, WAITING, QueueEntry
from muster.targets.hosts.background import background
from muster.targets.hosts.node_feed import NodeFeed
from muster.targets.hosts.shell import CommandTimeout
from muster.targets.hosts.ssh_errors import HostUnreachable
from muster.targets.ssh.jobs import SshJobs
from muster.targets.ssh.ledger import SshTiming
from muster.targets.ssh.node_restart import restart_node
from muster.targets.ssh.queue_client import QueuedJob
from muster.targets.ssh.queue_watch import waiting_reason
from muster.targets.watch.inbox import Inbox
from muster.targets.watch.job_watch import JobWatch
from muster.targets.watch.news import End, Failed, News, NodeRestarted, NodesAssigned, Note, State

LONGEST_DELAY = 5.0  # seconds between two tries to reach a host
TRANSIENT = (HostUnreachable, CommandTimeout)


class SshFeed:
    """One feed for each job, in the background loop; all share the connections of the process."""

    def __init__(self, jobs: SshJobs, timing: SshTiming) -> None:
        self._jobs = jobs
        self._timing = timing
        self._feeds: dict[JobHandle, SshJobFeed] = {}

    async def open(self, cursors: Mapping[JobHandle, Cursor], inbox: Inbox) -> list[JobWatch]:
        """Start to report all jobs."""
        watches = [JobWatch(job, cursor, self._timing) for job, cursor in cursors.items()]
        for watch in watches:
            feed = self._feeds[watch.handle] = SshJobFeed(self._jobs, watch.handle, watch.cursor, inbox, self._timing)
            background().call(feed.start)
        return watches

    def restart_node(self, watch: JobWatch, node: int) -> None:
        """Start the agent of a lost node again once its host answers, and report its log on."""
        background().call(self._feeds[watch.handle].restart_node, node)

    async def finish(self, watch: JobWatch) -> None:
        """Return at once: the log streamers end what is left of a node before they report its end."""

    def close(self) -> None:
        """Remove a listener."""
        for feed in self._feeds.values():
            background().call(feed.stop)


class SshJobFeed:
    """One watched job; everything happens in the background loop."""

    def __init__(self, jobs: SshJobs, handle: JobHandle, cursor: Cursor, inbox: Inbox, timing: SshTiming) -> None:
        self._jobs = jobs
        self._handle = handle
        self._cursor = cursor
        self._inbox = inbox
        self._timing = timing
        self._nodes: list[NodeFeed] = []
        self._entry: QueueEntry | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._reason = self._delay_reason = ""
        self._granted: asyncio.Future[None] | None = None
        self._is_silent = False  # "not responding" has been reported

    def start(self) -> None:
        """Start to report."""
        self._run_task(self._run())

    def stop(self) -> None:
        """Remove a listener."""
        for task in self._tasks:
            task.cancel()
        self._jobs.waiting.unsubscribe(self._handle.id, self._on_position)
        for node in self._nodes:
            node.stop()

    def _run_task(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _put(self, news: News) -> None:
        self._inbox.put(self._handle, news)

    async def _run(self) -> None:
        try:
            queued = await self._look_up()
            while queued.live and queued.entry is not None and queued.entry.state != LAUNCHED:
                await self._wait_for_turn()
                queued = await self._look_up()
            if queued.end is not None:
                self._put(End(event=queued.end))
            elif queued.entry is not None:
                await self._follow(queued.entry)
        except Exception as error:
            self._put(Failed.of(self._handle, error))

    async def _look_up(self) -> QueuedJob:
        """Return what the queue knows of the job; a host that does not answer is waited for."""
        since, host = time.monotonic(), self._jobs.inventory.hosts[0].name

        def report_silence(error: Exception) -> None:
            self._report_silence([host] if time.monotonic() > since + self._timing.not_responding else [])

        backoff = Backoff(0.2, LONGEST_DELAY)
        return await retry_async(lambda: self._jobs.seen(self._handle.id), TRANSIENT, backoff, on_retry=report_silence)

    # -- its turn

    async def _wait_for_turn(self) -> None:
        self._granted = asyncio.get_running_loop().create_future()
        self._jobs.waiting.subscribe(self._handle.id, self._on_position)
        try:
            await self._granted
        finally:
            self._jobs.waiting.unsubscribe(self._handle.id, self._on_position)

    def _on_position(self, entry: QueueEntry | MusterError | str | None, entries: list[QueueEntry]) -> None:
        waiting = self._granted is not None and not self._granted.done()
        if isinstance(entry, str):
            if entry != self._delay_reason:
                self._delay_reason = entry
                self._put(Note(text=entry))
        elif isinstance(entry, MusterError):
            if self._granted is not None and waiting:
                self._granted.set_exception(entry)
        elif entry is not None and entry.state == WAITING:
            self._report_waiting(waiting_reason(entry, entries))
        elif self._granted is not None and waiting:
            self._granted.set_result(None)

    def _report_waiting(self, reason: str) -> None:
        if not self._reason:
            self._put(State(state=RunState.QUEUED))
        if reason != self._reason:
            self._reason = reason
            self._put(Note(text=reason, level="info"))

    # -- its nodes

    async def _follow(self, entry: QueueEntry) -> None:
        self._entry = entry
        self._put(NodesAssigned(hosts=tuple(allocation.host for allocation in entry.allocations)))
        for node, allocation in enumerate(entry.allocations):
            host, on_end = allocation.host, self._release_hosts
            self._nodes.append(NodeFeed(inbox=self._inbox, job=self._handle, node=node, host=host, on_end=on_end))
            self._start_node(node, self._cursor.offset(node))
        while any(not node.over for node in self._nodes):
            await asyncio.sleep(self._timing.tick)
            self._check_hosts()

    def _start_node(self, node: int, offset: int) -> None:
        assert self._entry is not None
        allocation = self._entry.allocations[node]
        self._nodes[node].start(self._jobs.connection(allocation.host).logs, allocation.folder, offset)

    def _check_hosts(self) -> None:
        """Report hosts that have not answered for long, and give up those without which the job is over."""
        now, timing = time.monotonic(), self._timing
        lost = [node for node in self._nodes if not node.over and node.lost_since]
        self._report_silence([node.host for node in lost if now > node.lost_since + timing.not_responding])
        for node in lost:
            has_end = any(other.has_end for other in self._nodes)
            others_ended = has_end or any(other.over for other in self._nodes)
            timeout = timing.given_up_after_end if has_end else timing.given_up
            passed = "; the run's deadline has passed" if self._entry is not None and self._entry.is_over else ""
            if passed or (others_ended and now > node.lost_since + timeout):
                node.report_end(f"host {node.host} does not answer since {now - node.lost_since:.0f} s{passed}")

    def _report_silence(self, hosts: list[str]) -> None:
        if hosts and not self._is_silent:
            self._is_silent = True
            seconds = f"{self._timing.not_responding:g} s"
            text = f"no answer from {', '.join(hosts)} for {seconds}; ranks may well go on there; waiting for it"
            self._put(State(state=RunState.NOT_RESPONDING))
            self._put(Note(text=text))
        elif not hosts and self._is_silent:
            self._is_silent = False
            self._put(Note(text="all hosts answer again", level="info"))

    def _release_hosts(self) -> None:
        """Resume the queue once all hosts have reported that nothing of the job is left on them."""
        complete = self._entry is not None and len(self._nodes) == len(self._entry.allocations)
        if complete and all(node.is_gone for node in self._nodes):
            self._jobs.waiting.release(self._handle.id)

    # -- lost nodes

    def restart_node(self, node: int) -> None:
        """Start a lost node again once its host answers, and report its log on."""
        self._run_task(self._restart_node(node))

    async def _restart_node(self, node: int) -> None:
        backoff = Backoff(0.2, LONGEST_DELAY)
        while not self._nodes[0].over and not self._nodes[0].has_end:
            try:
                if await restart_node(self._jobs, self._handle, node):
                    watch = self._nodes[node].watch
                    assert watch is not None
                    self._put(NodeRestarted(node=node))
                    self._start_node(node, watch.offset)
                return
            except TRANSIENT:
                await asyncio.sleep(backoff.next())
            except Exception as error:  # also of a bug of ours: the run goes on without the node
                return self._put(Note(node=node, text=f"node {node} can't be started again: {error}"))
