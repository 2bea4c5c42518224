"""Feed: what is news of one job, from its nodes' logs and from Slurm, brought from the background loop to who watches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muster.core.errors import MusterError
from muster.targets.hosts.background import background
from muster.targets.hosts.connection import NodeWatch
from muster.targets.slurm.cluster import Away, Cluster
from muster.targets.slurm.query import SlurmJobStatus

MOST, FEW = 4 << 20, 1 << 20  # bytes of one node's log that may wait for whoever watches; below which more is fetched


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Whole lines of a node's log; ``size`` is given back once they have been read."""

    attempt: int
    node: int
    data: bytes
    read: Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Silence:
    """Nothing more will come of a node."""

    attempt: int
    node: int


News = Lines | Silence | SlurmJobStatus | Away | MusterError


class Feed:
    """One watched job; ``tell`` is called in the loop of the one who watches, everything else may be called there."""

    def __init__(self, cluster: Cluster, number: str, tell: Callable[[News], None]) -> None:
        self._cluster = cluster
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._tell = tell
        self._ticket: object = None
        self._watches: list[NodeWatch] = []
        self._closed = False

    def open(self) -> None:
        """Have Slurm's states of the job told."""
        background().call(self._open)

    def follow(self, attempt: int, folders: list[Path], offsets: list[int]) -> None:
        """Have the logs of an attempt's nodes told, each from its offset."""
        background().call(self._follow, attempt, folders, offsets)

    def over(self) -> None:
        """Say that the nodes will write nothing more: what they have written is told, then their silence."""
        background().call(self._over)

    def close(self) -> None:
        """Tell nothing any more."""
        self._closed = True
        background().call(self._close)

    # -- in the background loop

    def _open(self) -> None:
        self._ticket = self._cluster.listen(self._number, self._news)

    def _news(self, news: News) -> None:
        if not self._closed and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, news)

    def _follow(self, attempt: int, folders: list[Path], offsets: list[int]) -> None:
        self._forget()
        for node, (folder, offset) in enumerate(zip(folders, offsets, strict=True)):
            sink = NodeSink(attempt, node, self._news)
            sink.watch = self._cluster.connection.watch(str(folder), offset, sink, outside=True)
            self._watches.append(sink.watch)

    def _over(self) -> None:
        for watch in self._watches:
            self._cluster.connection.over(watch)

    def _forget(self) -> None:
        for watch in self._watches:
            self._cluster.connection.forget(watch)
        self._watches = []

    def _close(self) -> None:
        self._forget()
        self._cluster.leave(self._ticket)


class NodeSink:
    """Takes one node's log from the hub; what waits for a slow reader is bounded."""

    def __init__(self, attempt: int, node: int, tell: Callable[[News], None]) -> None:
        self.watch: NodeWatch | None = None
        self._attempt, self._node, self._tell = attempt, node, tell
        self._waiting = 0
        self._lock = threading.Lock()

    def take(self, data: bytes) -> bool:
        """Pass on; False when there is enough that waits."""
        with self._lock:
            self._waiting += len(data)
            room = self._waiting < MOST
        self._tell(Lines(attempt=self._attempt, node=self._node, data=data, read=self._read))
        return room

    def _read(self, size: int) -> None:
        """Note in the loop of the reader that it has come so far."""
        with self._lock:
            self._waiting -= size
            enough = self._waiting >= FEW
        if not enough and self.watch is not None and self.watch.paused:
            background().call(self.watch.resume)

    def end(self, ending: dict[str, Any]) -> None:
        """Pass on that nothing more will come."""
        self._tell(Silence(attempt=self._attempt, node=self._node))

    def fail(self, error: MusterError) -> None:
        """Pass on that the node can't be watched."""
        self._tell(error)
