"""Starts the container of a node that an elastic run has lost again, if the run lives on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from muster.core.handle import JobHandle
from muster.targets.docker.containers import LIVING, AttemptContainers, Jobs
from muster.targets.docker.engine import Engine
from muster.targets.docker.errors import explained
from muster.targets.watch.news import NodeRestarted, Note

if TYPE_CHECKING:
    from muster.targets.docker.log_reader import NodeReader


class NodeRestarter(threading.Thread):
    """Starts a lost node's container again, and goes on as its ``reader``."""

    def __init__(self, engine: Engine, handle: JobHandle, node: int, reader: NodeReader) -> None:
        super().__init__(daemon=True, name=f"{reader.name}-restart")
        self._engine = engine
        self._job = handle
        self._node = node
        self._reader = reader

    def stop(self) -> None:
        """Read no further."""
        self._reader.stop()

    def run(self) -> None:
        """Start the container and read its log; one that can't be started stays lost."""
        try:
            started = restart_node(self._engine, self._job, self._node)
        except Exception as error:
            return self._reader.put(Note(node=self._node, text=f"node {self._node} can't be started again: {error}"))
        if started:
            self._reader.put(NodeRestarted(node=self._node))
            self._reader.run()


def restart_node(engine: Engine, handle: JobHandle, node: int) -> bool:
    """Start the container of a lost node; return whether it runs then, whoever has started it.

    Not if the run has ended, is being ended, or belongs to another attempt by now, nor if the container has been removed.
    """
    import docker.errors

    client, jobs = engine.client, Jobs(engine.client, engine.url)
    with explained(f"starting node {node} of run {handle.job_id} again", engine.url):
        newest = next(iter(jobs.attempts(handle.job_id)), None)
        lost = next((c for c in newest.containers if c.node == node), None) if newest else None
        if newest is None or lost is None or not _goes_on(jobs, newest, handle):
            return False
        try:
            client.start(lost.id)  # of one that runs the engine makes nothing
        except docker.errors.APIError as error:
            if error.status_code in (404, 409):  # it has been removed, or is about to be
                return False
            raise
    return True


def _goes_on(jobs: Jobs, attempt: AttemptContainers, handle: JobHandle) -> bool:
    """Return whether an attempt is the handle's, and its leader lives, has not ended and is not being ended."""
    leader = attempt.leader
    ours = attempt.id == handle.id
    if leader is None or not ours or leader.state not in LIVING:
        return False
    return jobs.end_of(attempt) is None and not jobs.has_cancel_request(leader.id)
