"""The news of jobs of an engine: a thread finds their containers, a thread for each node reads its log."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from muster.core.errors import UnknownRun
from muster.core.event import Cursor
from muster.core.handle import JobHandle
from muster.targets.docker.containers import AttemptContainers, Container, Jobs
from muster.targets.docker.engine import Engine
from muster.targets.docker.errors import EngineUnreachable
from muster.targets.docker.ledger import DockerTiming
from muster.targets.docker.log_reader import ContainerExit, NodeReader
from muster.targets.docker.node_restart import NodeRestarter
from muster.targets.docker.outage import EngineOutage
from muster.targets.watch.inbox import Inbox
from muster.targets.watch.job_watch import JobWatch
from muster.targets.watch.news import Failed, NodeEnded, NodesAssigned, Note


class DockerFeed:
    """One client for many jobs; a thread for every node's stream, since the SDK blocks."""

    def __init__(self, engine: Engine, timing: DockerTiming) -> None:
        self._engine = engine
        self._timing = timing
        self._containers: dict[tuple[JobHandle, int], Container] = {}
        self._readers: list[NodeReader | NodeRestarter] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    async def open(self, cursors: Mapping[JobHandle, Cursor], inbox: Inbox) -> list[JobWatch]:
        """Start to poll for the containers of all jobs."""
        self._inbox = inbox
        watches = [JobWatch(job, cursor, self._timing) for job, cursor in cursors.items()]
        offsets = {watch.handle: watch.cursor for watch in watches}
        threading.Thread(target=self._find_all, args=(offsets,), daemon=True, name="muster-find").start()
        return watches

    def restart_node(self, watch: JobWatch, node: int) -> None:
        """Start the container of a lost node again, and read its log on."""
        container = self._containers.get((watch.handle, node))
        if container is not None:
            reader = self._reader(watch.handle, container, watch.position(node))
            self._start(NodeRestarter(self._engine, watch.handle, node, reader))

    async def finish(self, watch: JobWatch) -> None:
        """Keep the containers, which end with their nodes, until the outcome has been read."""

    def close(self) -> None:
        """Read no further."""
        self._stopped.set()
        with self._lock:
            for reader in self._readers:
                reader.stop()

    def _find_all(self, cursors: Mapping[JobHandle, Cursor]) -> None:
        """Find the attempt of each job, and read it; an engine that does not answer is waited for."""

        def report(text: str) -> None:
            for job in cursors:
                self._inbox.put(job, Note(text=text))

        outage = EngineOutage(self._engine, report, self._timing.engine)
        for job, cursor in cursors.items():
            try:
                self._read_all(job, cursor, self._find(job, outage))
            except Exception as error:  # also of a bug of ours: whoever watches must not wait for ever
                self._inbox.put(job, Failed.of(job, error))

    def _find(self, job: JobHandle, outage: EngineOutage) -> AttemptContainers | None:
        """Return the attempt of a handle, None if nobody watches any more."""
        while not self._stopped.is_set():
            client = None
            try:
                client = self._engine.client
                attempts = Jobs(client, self._engine.url).attempts(job.job_id)
            except EngineUnreachable as error:
                self._stopped.wait(outage.failed(error, client))
                continue
            for attempt in attempts:
                if attempt.id == job.id:
                    outage.ended()
                    return attempt
            run = f"run {job.job_id!r} on {self._engine.url}"
            raise UnknownRun(f"no attempt {job.attempt} of {run}; `muster show` tells what is stored")
        return None

    def _read_all(self, job: JobHandle, cursor: Cursor, attempt: AttemptContainers | None) -> None:
        if attempt is None:
            return
        containers = {container.node: container for container in attempt.containers}
        nodes = attempt.claim.nodes if attempt.claim is not None else len(containers)
        self._inbox.put(job, NodesAssigned(hosts=("",) * nodes))
        for node in range(nodes):
            if node in containers:
                self._containers[job, node] = containers[node]
                self._start(self._reader(job, containers[node], cursor.offset(node)))
            else:  # it has been lost already
                gone = ContainerExit(name=f"of node {node}", found=False)
                self._inbox.put(job, NodeEnded(node=node, how=gone.text))

    def _reader(self, job: JobHandle, container: Container, offset: int) -> NodeReader:
        timeout = self._timing.engine
        return NodeReader(self._engine, container, offset, inbox=self._inbox, job=job, engine_timeout=timeout)

    def _start(self, reader: NodeReader | NodeRestarter) -> None:
        with self._lock:
            if not self._stopped.is_set():
                self._readers.append(reader)
                reader.start()
