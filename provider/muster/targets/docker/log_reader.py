"""Reads one node's event log from its container, by a relay while it runs, from its files after, and how it ended."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.core.errors import TargetError
from muster.core.handle import JobHandle
from muster.core.retry import Backoff
from muster.node.host.log_stream import LAST_EVENT, LineCutter
from muster.targets.docker.agent_volume import ENTRY
from muster.targets.docker.containers import LIVING, Container, Jobs
from muster.targets.docker.engine import Engine
from muster.targets.docker.errors import connection_errors
from muster.targets.docker.exec_stream import ExecStream
from muster.targets.docker.node_files import NODE
from muster.targets.docker.outage import EngineOutage
from muster.targets.docker.termination import LAUNCH_TIME
from muster.targets.watch.inbox import Inbox
from muster.targets.watch.news import Failed, Lines, News, NodeEnded, Note

if TYPE_CHECKING:
    from docker import APIClient

POLL_INTERVAL = 0.05
SLOWEST = 3.0  # seconds between two inspections of a container without a relay
ERRORS_KEPT = 1 << 12  # bytes of a relay's standard error
OUTPUT_LINES = 5  # of a container's own output that are shown when it was lost


@dataclass(frozen=True, kw_only=True)
class ContainerExit:
    """Exit of a container; ``found`` is false if the container was removed before its state could be read."""

    name: str
    found: bool = True
    code: int = 0
    out_of_memory: bool = False
    reason: str = ""
    output: str = ""

    @property
    def text(self) -> str:
        """Return it in one line."""
        if not self.found:
            return f"container {self.name} is gone: somebody removed it from the engine"
        killed = " (SIGKILL)" if self.code == 137 else ""
        memory = ", out of memory" if self.out_of_memory else ""
        reason = f": {self.reason}" if self.reason else ""
        output = f"; its last output: {self.output}" if self.output else ""
        return f"container {self.name} ended with exit code {self.code}{killed}{memory}{reason}{output}"


class NodeReader(threading.Thread):
    """Puts a node's log, notes on the way to it, and its end into the inbox, or the error that ended the reading."""

    def __init__(
        self, engine: Engine, container: Container, offset: int, *, inbox: Inbox, job: JobHandle, engine_timeout: float
    ) -> None:
        super().__init__(daemon=True, name=f"muster-{container.name}")
        self._engine = engine
        self._container = container
        self._offset = offset
        self._inbox = inbox
        self._job = job
        self._stopped = threading.Event()
        self._stream: ExecStream | None = None
        self._outage = EngineOutage(engine, self._report, engine_timeout)
        self._backoff = Backoff(POLL_INTERVAL, SLOWEST, factor=1.5)
        self._born = time.monotonic()
        self._done = False  # the log has its last event
        self._up_since = ""  # when the container was, by the engine

    def put(self, news: News) -> None:
        """Put news into the inbox; wait while there is no room."""
        if not self._inbox.put(self._job, news):
            self._inbox.wait_for_room()

    def stop(self) -> None:
        """Read no further; the relay in the container ends when it sees that nobody listens."""
        self._stopped.set()
        stream = self._stream
        if stream is not None:
            stream.end()

    def run(self) -> None:
        """Read until the container has ended, over as many restarts of the engine as it takes."""
        while not self._stopped.is_set():
            client = None
            try:
                client = self._engine.client
                ended = self._read_once(client)
                self._outage.ended()
                news: News | None = self._end_of(ended) if ended is not None else None
            except Exception as error:
                news = self._judge(error, client)
            if news is not None:
                self.put(news)
                return

    def _read_once(self, client: APIClient) -> ContainerExit | None:
        """Read what there is now; return how the container ended, None if there is more to come."""
        if not self._done and self._relay(client):
            return None
        state = client.inspect_container(self._container.id)["State"]
        unborn = state["Status"] == "created" and time.monotonic() < self._born + 2 * LAUNCH_TIME
        if state["Status"] in LIVING or unborn:
            self._record_start(state["StartedAt"])
            self._stopped.wait(self._backoff.next())
            return None
        if not self._done:
            cutter = LineCutter()
            for piece in Jobs(client, self._engine.url).log_of(self._container.id, self._offset):
                self._forward(*cutter.cut(piece)[:2])
        return self._exit(client, state)

    def _record_start(self, started: str) -> None:
        """Read on in a container that somebody has started again after the log's last event."""
        self._done = self._done and self._up_since in ("", started)
        self._up_since = started

    def _exit(self, client: APIClient, state: dict[str, Any]) -> ContainerExit:
        output = b"" if self._done else client.logs(self._container.id, tail=OUTPUT_LINES)
        return ContainerExit(
            name=self._container.name,
            code=int(state["ExitCode"]),
            out_of_memory=bool(state["OOMKilled"]),
            reason=" ".join(state["Error"].split()),
            output=" | ".join(output.decode(errors="replace").split("\n")).strip(" |")[-500:],
        )

    def _end_of(self, ended: ContainerExit) -> NodeEnded:
        node = self._container.node
        return NodeEnded(node=node, how="" if self._done else ended.text, out_of_memory=ended.out_of_memory)

    # -- the log

    def _relay(self, client: APIClient) -> bool:
        """Receive the log until the relay ends; return whether the next one must be started at once."""
        import docker.errors

        argv = [self._container.python, "-I", "-S", ENTRY, "relay", str(NODE), str(self._offset)]
        try:
            relay = client.exec_create(self._container.id, argv, stdin=True)["Id"]
        except docker.errors.APIError as error:
            if error.status_code == 409:  # it does not run
                return False
            raise
        stream = self._stream = ExecStream(client.exec_start(relay, socket=True))
        try:
            return self._listen(stream)
        finally:
            self._stream = None
            stream.close()

    def _listen(self, stream: ExecStream) -> bool:
        """Read what a relay pushes; return whether the relay ended at a line that is too long, behind which another follows."""
        if self._stopped.is_set():  # perhaps before there was a stream to be ended
            return False
        cutter, errors = LineCutter(), b""
        for output, data in stream.frames():
            if output == 1:
                self._forward(*cutter.cut(data)[:2])
            else:
                errors = (errors + data)[-ERRORS_KEPT:]
        try:
            skipped = int(json.loads(errors)["skipped"])
        except (ValueError, TypeError, KeyError):
            return False
        self._forward(b"", skipped)
        return True

    def _forward(self, lines: bytes, skipped: int) -> None:
        """Forward whole lines, so that the position is always the beginning of one."""
        if lines or skipped:
            self._offset += skipped + len(lines)
            self._done = self._done or LAST_EVENT in lines
            self._backoff.reset()
            self.put(Lines(node=self._container.node, data=lines, skipped=skipped))

    # -- the engine

    def _judge(self, error: Exception, client: APIClient | None) -> News | None:
        """Return what an error means: the container is gone, or reading has failed; None if it is to be tried again."""
        import docker.errors

        name = self._container.name
        if isinstance(error, docker.errors.NotFound):
            return self._end_of(ContainerExit(name=name, found=False))
        if isinstance(error, docker.errors.APIError) and error.status_code == 409:  # it is being removed
            self._stopped.wait(POLL_INTERVAL)
            return None
        if isinstance(error, docker.errors.APIError) and (error.status_code or 500) < 500:
            return Failed(error=TargetError(f"reading container {name} failed: {error.explanation or error}"))
        if isinstance(error, connection_errors(OSError, TargetError)):
            return self._wait_for_engine(error, client)
        return Failed(error=TargetError(f"reading container {name} failed: {type(error).__name__}: {error}"))

    def _wait_for_engine(self, error: Exception, client: APIClient | None) -> News | None:
        try:
            delay = self._outage.failed(error, client)
        except TargetError as too_long:
            return Failed(error=too_long)
        self._stopped.wait(delay)
        return None

    def _report(self, text: str) -> None:
        if self._container.node == 0:  # once for the job
            self.put(Note(text=text))
