"""SlurmSession: watches jobs of a cluster; one connection, hub and question to Slurm serve all sessions of a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar

from muster.core.event import Cursor, Event
from muster.core.handle import JobHandle
from muster.node.slurm.job_control import ReadJobs
from muster.targets.hosts.background import background
from muster.targets.hosts.connection import FIRST_PAUSE, LONGEST_PAUSE
from muster.targets.hosts.shell import CommandTimeout, ConnectionLost
from muster.targets.hosts.ssh_errors import Unreachable
from muster.targets.slurm.cluster import Cluster
from muster.targets.slurm.feed import News
from muster.targets.slurm.job_record import JobRecord
from muster.targets.slurm.watch import SlurmWatch

T = TypeVar("T")
Watched = tuple[JobHandle, Cursor, Event]
Opens = Callable[[], Coroutine[None, None, Cluster]]


class SlurmSession:
    """``cluster`` gives the process's own, in the background loop."""

    def __init__(self, cluster: Opens) -> None:
        self._cluster = cluster

    async def watch(self, cursors: Mapping[JobHandle, Cursor]) -> AsyncIterator[Watched]:
        """Yield all jobs' events; see :class:`muster.targets.contract.Session`.

        :raises UnknownRun: the cluster's folder has no such attempt.
        """
        cluster = await background().do(self._cluster())
        inbox: asyncio.Queue[tuple[SlurmWatch, News]] = asyncio.Queue()
        watches = await self._watches(cluster, cursors)
        try:
            for watch in watches:
                watch.open(cluster, partial(_put, inbox, watch))
            while not all(watch.over for watch in watches):
                watch, news = await inbox.get()
                if watch.over:
                    continue
                for event in watch.hear(news):
                    yield watch.handle, watch.cursor, event
                if watch.ended:
                    yield watch.handle, watch.cursor, await self._conclusion(cluster, watch)
        finally:
            for watch in watches:
                watch.close()

    async def _watches(self, cluster: Cluster, cursors: Mapping[JobHandle, Cursor]) -> list[SlurmWatch]:
        jobs = tuple(sorted({handle.job_id for handle in cursors}))
        known = await _patiently(lambda: cluster.ask(ReadJobs(jobs=jobs)))
        root = (await _patiently(cluster.connection.info)).root
        return [
            SlurmWatch(handle, cursor, JobRecord(job_id=handle.job_id, files=known[handle.job_id]), root)
            for handle, cursor in cursors.items()
        ]

    async def _conclusion(self, cluster: Cluster, watch: SlurmWatch) -> Event:
        watch.close()
        if watch.settled:
            return watch.conclusion(None, "")
        handle = watch.handle
        files = await _patiently(lambda: cluster.ask(ReadJobs(jobs=(handle.job_id,))))
        record = JobRecord(job_id=handle.job_id, files=files[handle.job_id])
        return watch.conclusion(record.cancel_request(handle), record.output(handle))


async def _patiently(ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Ask the login node, in the background loop; one that is away is waited for."""
    pause = FIRST_PAUSE
    while True:
        try:
            return await background().do(ask())
        except (Unreachable, ConnectionLost, CommandTimeout):
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)


def _put(inbox: asyncio.Queue[tuple[SlurmWatch, News]], watch: SlurmWatch, news: News) -> None:
    inbox.put_nowait((watch, news))
