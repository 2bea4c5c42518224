"""The news of jobs of a cluster: their nodes' logs on the shared folder, and their states from one squeue for all."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from muster.core.event import Cursor
from muster.core.handle import JobHandle
from muster.core.retry import Backoff, retry_async
from muster.node.slurm.job_control import JobFiles, ReadJobs
from muster.targets.hosts.background import background
from muster.targets.hosts.log_client import FIRST_DELAY, LONGEST_DELAY
from muster.targets.hosts.node_feed import NodeFeed
from muster.targets.hosts.shell import CommandTimeout, ConnectionLost
from muster.targets.hosts.ssh_errors import HostUnreachable
from muster.targets.slurm.cluster import Cluster
from muster.targets.slurm.job_record import JobRecord
from muster.targets.slurm.ledger import SlurmTiming
from muster.targets.slurm.watch import SlurmWatch
from muster.targets.watch.inbox import Inbox
from muster.targets.watch.job_watch import JobWatch
from muster.targets.watch.news import News

T = TypeVar("T")
ClusterFactory = Callable[[], Coroutine[None, None, Cluster]]


class SlurmFeed:
    """``cluster`` returns the process's own, in the background loop."""

    def __init__(self, cluster: ClusterFactory, timing: SlurmTiming) -> None:
        self._new_cluster = cluster
        self._timing = timing
        self._watches: dict[JobHandle, SlurmWatch] = {}
        self._feeds: dict[JobHandle, SlurmJobFeed] = {}

    async def open(self, cursors: Mapping[JobHandle, Cursor], inbox: Inbox) -> list[JobWatch]:
        """Read the records of all jobs at once, and begin to report.

        :raises UnknownRun: the cluster's folder has no such attempt.
        """
        cluster = self._cluster = await background().do(self._new_cluster())
        files = await self._read_jobs(cursors)
        root = (await _ask(cluster.connection.info)).root
        for job, cursor in cursors.items():
            record = JobRecord(job_id=job.job_id, files=files[job.job_id])
            feed = SlurmJobFeed(cluster, inbox, job, record.number(job))
            self._watches[job] = SlurmWatch(job, cursor, record, root, timing=self._timing, feed=feed)
            self._feeds[job] = feed
        for feed in self._feeds.values():
            background().call(feed.start)
        return list(self._watches.values())

    def restart_node(self, watch: JobWatch, node: int) -> None:
        """Ignore the node: Slurm restarts lost nodes with their job."""

    async def finish(self, watch: JobWatch) -> None:
        """Ask what the nodes could not write of a job that is over: who asked for its end, and its batch job's output."""
        job = watch.handle
        background().call(self._feeds[job].stop)
        if not self._watches[job].end_is_final:
            files = await self._read_jobs([job])
            record = JobRecord(job_id=job.job_id, files=files[job.job_id])
            self._watches[job].record_outside(record.cancel_request(job), record.output(job))

    def close(self) -> None:
        """Remove a listener."""
        for feed in self._feeds.values():
            background().call(feed.stop)

    async def _read_jobs(self, handles: Iterable[JobHandle]) -> Mapping[str, JobFiles]:
        jobs = tuple(sorted({handle.job_id for handle in handles}))
        return await _ask(lambda: self._cluster.ask(ReadJobs(jobs=jobs)))


async def _ask(question: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Return what the login node answers, asked in the background loop; one that does not answer is waited for."""
    backoff = Backoff(FIRST_DELAY, LONGEST_DELAY)
    transient = (HostUnreachable, ConnectionLost, CommandTimeout)
    return await retry_async(lambda: background().do(question()), transient, backoff)


class SlurmJobFeed:
    """One watched job, in the background loop; only ``follow`` and ``finish`` may be called anywhere."""

    def __init__(self, cluster: Cluster, inbox: Inbox, job: JobHandle, number: str) -> None:
        self._cluster = cluster
        self._inbox = inbox
        self._job = job
        self._number = number
        self._ticket: object = None
        self._nodes: list[NodeFeed] = []

    def follow(self, attempt: int, folders: list[str], offsets: list[int]) -> None:
        """Report the logs of an attempt's nodes, each from its offset, in place of those of the attempt before."""
        background().call(self._follow, attempt, folders, offsets)

    def finish(self) -> None:
        """Report that the nodes have ended, once what they have written is read."""
        background().call(self._finish)

    # -- in the background loop

    def start(self) -> None:
        """Start to report Slurm's states of the job."""
        self._ticket = self._cluster.listen(self._number, self._put)

    def stop(self) -> None:
        """Remove a listener."""
        self._stop_nodes()
        self._cluster.unsubscribe(self._ticket)

    def _put(self, news: News) -> None:
        self._inbox.put(self._job, news)

    def _follow(self, attempt: int, folders: list[str], offsets: list[int]) -> None:
        self._stop_nodes()
        for node, (folder, offset) in enumerate(zip(folders, offsets, strict=True)):
            feed = NodeFeed(inbox=self._inbox, job=self._job, node=node, attempt=attempt)
            feed.start(self._cluster.connection.logs, folder, offset, outside=True)
            self._nodes.append(feed)

    def _finish(self) -> None:
        for node in self._nodes:
            if node.watch is not None:
                node.watch.finish()

    def _stop_nodes(self) -> None:
        for node in self._nodes:
            node.stop()
        self._nodes = []
