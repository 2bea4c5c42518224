"""The news of jobs of this machine: their nodes' event logs, read in process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping

from muster.core.event import Cursor
from muster.core.handle import JobHandle
from muster.core.paths import NodePaths
from muster.node import processes
from muster.node.host import liveness
from muster.node.host.log_stream import LogSchedule, WatchedLog
from muster.targets.watch.inbox import Inbox
from muster.targets.watch.job_watch import JobWatch
from muster.targets.watch.news import Failed, Lines, News, NodeEnded, NodeRestarted, NodesAssigned, Note
from muster.targets.watch.timing import WatchTiming

LOST = "agent and guardian are gone without a word"
SLOWEST = 0.25  # seconds between two reads of a log that does not grow
LIVENESS = 0.25  # seconds between two checks whether an agent lives

NodesOf = Callable[[JobHandle], list[NodePaths]]
RestartNode = Callable[[JobHandle, int], bool]


class LocalLog(WatchedLog):
    """The event log of a node of this machine."""

    slowest = SLOWEST
    liveness_interval = LIVENESS

    def __init__(self, job: JobHandle, node: int, paths: NodePaths, offset: int) -> None:
        super().__init__((job, node), str(paths.root), offset)
        self.job, self.node = job, node

    def is_alive(self) -> bool:
        """Return whether the node's guardian or agent lives."""
        return liveness.is_alive(self.folder)

    def is_clean(self) -> bool:
        """Return True: what is left of one node is ended together with the job, or before the node is started again."""
        return True


class LocalFeed:
    """``nodes_of`` returns the node folders of a job; ``restart_node`` starts the agent of a lost
    node again, and returns whether it did.
    """

    def __init__(self, nodes_of: NodesOf, restart_node: RestartNode, timing: WatchTiming) -> None:
        self._nodes_of = nodes_of
        self._restart_node = restart_node
        self._timing = timing
        self._schedule = LogSchedule()
        self._nodes: dict[JobHandle, list[NodePaths]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, cursors: Mapping[JobHandle, Cursor], inbox: Inbox) -> list[JobWatch]:
        """Start to read the logs of all jobs."""
        self._inbox = inbox
        watches = [JobWatch(job, cursor, self._timing) for job, cursor in cursors.items()]
        for watch in watches:
            folders = self._nodes[watch.handle] = self._nodes_of(watch.handle)
            inbox.put(watch.handle, NodesAssigned(hosts=("",) * len(folders)))
            for node in range(len(folders)):
                self._read(watch, node)
        self._start(self._run())
        return watches

    def restart_node(self, watch: JobWatch, node: int) -> None:
        """Start the agent of a lost node again, and read its log on."""
        self._start(self._restart(watch, node))

    async def finish(self, watch: JobWatch) -> None:
        """End what is left of a job whose agents did not end it in order."""
        if len(watch.orderly) < len(self._nodes[watch.handle]):
            await asyncio.to_thread(processes.kill_marked, f"MUSTER_JOB={watch.handle.id.marker}")

    def close(self) -> None:
        """Read no further."""
        for task in self._tasks:
            task.cancel()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _read(self, watch: JobWatch, node: int) -> None:
        folder = self._nodes[watch.handle][node]
        self._schedule.add(LocalLog(watch.handle, node, folder, watch.position(node)))

    async def _run(self) -> None:
        try:
            await self._report()
        except Exception as error:  # a bug of ours must not leave whoever watches waiting for ever
            for job in self._nodes:
                self._inbox.put(job, Failed.of(job, error))

    async def _report(self) -> None:
        while True:
            for log, part in self._schedule.read_due():
                assert isinstance(log, LocalLog)
                if part is None:
                    news: News = NodeEnded(node=log.node, how="" if log.orderly else LOST)
                else:
                    news = Lines(node=log.node, data=part.lines, skipped=part.skipped)
                if not self._inbox.put(log.job, news):
                    room = asyncio.Event()
                    self._inbox.when_room(room.set)
                    await room.wait()
            await asyncio.sleep(max(0.0, min(self._schedule.next_due - time.monotonic(), SLOWEST)))

    async def _restart(self, watch: JobWatch, node: int) -> None:
        try:
            started = await asyncio.to_thread(self._restart_node, watch.handle, node)
        except Exception as error:  # the run goes on without the node
            self._inbox.put(watch.handle, Note(node=node, text=f"node {node} can't be started again: {error}"))
            return
        if started:
            self._inbox.put(watch.handle, NodeRestarted(node=node))
            self._read(watch, node)
