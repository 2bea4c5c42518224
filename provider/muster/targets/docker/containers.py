"""Attempts as a Docker engine holds them: containers found by their labels, the claim among them, and their networks."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.core.attempt import AttemptId
from muster.core.codec import from_data
from muster.core.event import Event, last_end
from muster.core.paths import NodePaths
from muster.node.assignment import Assignment
from muster.node.event_log import TAIL_READ
from muster.targets.claim import Claim
from muster.targets.docker.errors import explained
from muster.targets.docker.node_files import NODE

if TYPE_CHECKING:
    from docker import APIClient

JOB, GENERATION, ATTEMPT = "muster.job", "muster.generation", "muster.attempt"  # labels of containers and networks
NODE_NUMBER, PYTHON, CLAIM = "muster.node", "muster.python", "muster.claim"  # labels of containers
LIVING = frozenset({"running", "paused", "restarting"})


def container_name(job_id: str) -> str:
    """Return the name of node 0's container, which the job id alone decides: creating it is the exclusive create."""
    cleaned = re.sub(r"[^A-Za-z0-9_.-]", "-", job_id)[:80]
    return f"muster-{cleaned}" if cleaned == job_id else f"muster-{cleaned}-{_short(job_id)}"


def attempt_name(one: AttemptId) -> str:
    """Return what begins the names of everything else of an attempt."""
    return f"{container_name(one.job_id)}-{one.folder}"


def host_name(job_id: str, node: int) -> str:
    """Return a node's host name: a readable part, at most 63 characters."""
    readable = re.sub(r"[^a-z0-9]+", "-", job_id.lower()).strip("-")[:40].strip("-")
    return f"{readable or 'job'}-{_short(job_id)}-n{node}"


def _short(job_id: str) -> str:
    return hashlib.sha256(job_id.encode()).hexdigest()[:6]


@dataclass(frozen=True, kw_only=True)
class Container:
    """One node of an attempt. ``state`` is the engine's word: created, running, paused, restarting, exited, dead."""

    id: str
    name: str
    node: int
    state: str
    python: str = "python3"  # the program that runs the agent in it


@dataclass(frozen=True, kw_only=True)
class AttemptContainers:
    """The containers of one attempt, by node; ``claim`` is None if node 0's is missing."""

    id: AttemptId
    claim: Claim | None
    containers: tuple[Container, ...]

    @property
    def leader(self) -> Container | None:
        """Node 0's container."""
        return next((c for c in self.containers if c.node == 0), None)

    @property
    def running(self) -> bool:
        """Return whether any node lives."""
        return any(c.state in LIVING for c in self.containers)

    @property
    def unborn(self) -> bool:
        """Return whether node 0 was created and not started: a submit is at work, or died at it."""
        return self.leader is not None and self.leader.state == "created"


class Jobs:
    """The jobs of one engine."""

    def __init__(self, client: APIClient, engine_url: str) -> None:
        self._client = client
        self._engine_url = engine_url

    def attempts(self, job_id: str) -> list[AttemptContainers]:
        """Return a job's attempts, the newest first."""
        with explained(f"looking for run {job_id}", self._engine_url):
            rows = self._client.containers(all=True, filters={"label": f"{JOB}={job_id}"})
        found: dict[AttemptId, list[dict[str, Any]]] = {}
        for row in rows:
            if row["State"] != "removing":
                found.setdefault(_id(row), []).append(row)
        return [_attempt(one, rows) for one, rows in sorted(found.items(), reverse=True)]

    def end_of(self, attempt: AttemptContainers) -> Event | None:
        """Return the END event of an attempt's leader, None if it has not been written or the leader is gone."""
        if attempt.leader is None:
            return None
        tail = b""
        for piece in self.log_of(attempt.leader.id, 0):
            tail = (tail + piece)[-TAIL_READ:]
        return last_end(tail)

    def log_of(self, container: str, offset: int) -> Iterator[bytes]:
        """Yield a node's event log from a byte on, as it lies in the container; nothing if there is none."""
        return self._file(container, NodePaths(root=NODE).events, offset)

    def assignment_of(self, attempt: AttemptContainers) -> Assignment:
        """Return the assignment of an attempt's leader."""
        assert attempt.leader is not None
        with explained("reading the assignment", self._engine_url):
            text = b"".join(self._file(attempt.leader.id, NodePaths(root=NODE).assignment, 0))
        return from_data(Assignment, json.loads(text))

    def has_cancel_request(self, container: str) -> bool:
        """Return whether a node has a cancel request, of a cancel or of a newer submit."""
        return any(self._file(container, NodePaths(root=NODE).cancel, 0))

    def _file(self, container: str, path: Path, offset: int) -> Iterator[bytes]:
        import docker.errors

        try:
            stream, _ = self._client.get_archive(container, str(path))
        except docker.errors.NotFound:
            return
        yield from _content(stream, offset)

    def rename(self, attempt: AttemptContainers) -> None:
        """Free the name that is the claim, so that the next attempt can take it; whoever is first with that owns the job."""
        import docker.errors

        leader = attempt.leader
        if leader is None or leader.name != container_name(attempt.id.job_id):
            return
        try:
            self._client.rename(leader.id, f"{attempt_name(attempt.id)}-n0")
        except docker.errors.APIError as error:
            # it is gone, or has stepped aside already: then creating the next leader tells who owns the job
            if error.status_code not in (400, 404, 409):
                raise

    def remove(self, attempts: Iterable[AttemptContainers]) -> None:
        """Remove containers, running or not, by their ids; those already gone don't matter."""
        containers = [container.id for attempt in attempts for container in attempt.containers]
        with explained("removing containers", self._engine_url):
            each(self.remove_container, containers)

    def remove_container(self, container: str) -> None:
        """Remove one container with its unnamed volumes, running or not."""
        import docker.errors

        try:
            self._client.remove_container(container, force=True, v=True)
        except docker.errors.APIError as error:
            if error.status_code not in (404, 409):  # 409: somebody else is removing it
                raise

    def networks(self, job_id: str) -> list[dict[str, Any]]:
        """Return the networks that were made for a job."""
        with explained(f"looking for networks of run {job_id}", self._engine_url):
            networks: list[dict[str, Any]] = self._client.networks(filters={"label": f"{JOB}={job_id}"})
        return networks

    def remove_networks(self, job_id: str, *, keep: Iterable[AttemptId] = (), last: AttemptId | None = None) -> None:
        """Remove a job's networks, but for those of the attempts to keep and of those after ``last``."""
        kept = set(keep)
        for network in self.networks(job_id):
            of = _id(network)
            if of not in kept and (last is None or of <= last):  # a newer one may have no container yet
                self.remove_network(network["Id"])

    def remove_network(self, network: str) -> None:
        """Remove one network; one that is gone, or still has somebody else in it, is left alone."""
        import docker.errors

        try:
            self._client.remove_network(network)
        except docker.errors.APIError as error:
            if error.status_code not in (403, 404, 409):
                raise


def each(work: Any, items: Iterable[Any]) -> list[Any]:
    """Run ``work`` for all items at once; raise the first error after all have been tried."""
    items = list(items)
    if not items:
        return []
    with ThreadPoolExecutor(min(32, len(items))) as pool:
        futures = [pool.submit(work, item) for item in items]
    return [future.result() for future in futures]


def _attempt(one: AttemptId, rows: list[dict[str, Any]]) -> AttemptContainers:
    claims = [row["Labels"][CLAIM] for row in rows if CLAIM in row["Labels"]]
    containers = sorted((_container(row) for row in rows), key=lambda container: container.node)
    claim = from_data(Claim, json.loads(claims[0])) if claims else None
    return AttemptContainers(id=one, claim=claim, containers=tuple(containers))


def _id(labelled: dict[str, Any]) -> AttemptId:
    labels = labelled["Labels"]
    return AttemptId(labels[JOB], int(labels[GENERATION]), int(labels[ATTEMPT]))


def _container(row: dict[str, Any]) -> Container:
    name = row["Names"][0].lstrip("/") if row["Names"] else row["Id"][:12]
    return Container(
        id=row["Id"], name=name, node=int(row["Labels"][NODE_NUMBER]), state=row["State"], python=row["Labels"][PYTHON]
    )


def _content(stream: Iterable[bytes], offset: int) -> Iterator[bytes]:
    """Yield the content of the one file in a tar stream, from a byte on."""
    import tarfile

    with tarfile.open(fileobj=_Readable(stream), mode="r|") as archive:
        member = archive.next()
        file = archive.extractfile(member) if member is not None else None
        if file is None:
            return
        while (skipped := file.read(min(offset, 1 << 20))) and offset:
            offset -= len(skipped)
        while piece := file.read(1 << 20):
            yield piece


class _Readable(io.RawIOBase):
    """A stream of pieces as a file to read from."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """Return exactly ``size`` bytes, fewer only at the end."""
        parts, missing = [], size
        while missing > 0 and (self._rest or self._refill()):
            part, self._rest = self._rest[:missing], self._rest[missing:]
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _refill(self) -> bool:
        self._rest = next(self._pieces, b"")
        return bool(self._rest)
