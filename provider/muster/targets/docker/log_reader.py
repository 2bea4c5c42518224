"""NodeReader: brings one node's event log from its container, by a relay while it runs, from its files after, and its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.core.errors import MusterError, TargetError
from muster.targets.docker.agent_volume import ENTRY
from muster.targets.docker.containers import LIVING, Container, Jobs
from muster.targets.docker.engine import Engine
from muster.targets.docker.errors import connection_errors
from muster.targets.docker.exec_stream import Stream
from muster.targets.docker.node_files import NODE
from muster.targets.docker.outage import Outage
from muster.targets.docker.termination import LAUNCH_TIME

if TYPE_CHECKING:
    from docker import APIClient

LAST_WORD = b'"k": "node_end"'
PAUSE = 0.05
SLOWEST = 3.0  # seconds between two looks at a container without a relay
SAID = 5  # lines of a container's own output that are shown when it was lost


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a container ended; ``found`` is false if it was removed before that could be seen."""

    name: str
    found: bool = True
    code: int = 0
    out_of_memory: bool = False
    reason: str = ""
    last_words: str = ""

    @property
    def text(self) -> str:
        """Give it in one line."""
        if not self.found:
            return f"container {self.name} is gone: somebody removed it from the engine"
        killed = " (SIGKILL)" if self.code == 137 else ""
        memory = ", out of memory" if self.out_of_memory else ""
        reason = f": {self.reason}" if self.reason else ""
        words = f"; it said last: {self.last_words}" if self.last_words else ""
        return f"container {self.name} ended with exit code {self.code}{killed}{memory}{reason}{words}"


class NodeReader(threading.Thread):
    """``tell`` is given whole lines of the log as bytes, notes as text, one Ending, or the error that ended the reading."""

    def __init__(self, engine: Engine, container: Container, offset: int, tell: Callable[[Any], None]) -> None:
        super().__init__(daemon=True, name=f"muster-{container.name}")
        self._engine = engine
        self._container = container
        self._offset = offset
        self.tell = tell
        self._rest = b""  # half a line
        self._stopped = threading.Event()
        self._stream: Stream | None = None
        self._outage = Outage(engine, self._note)
        self._pause = PAUSE
        self._born = time.monotonic()
        self._done = False  # the node has said its last word
        self._up_since = ""  # when the container was, by the engine

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
                news: Ending | MusterError | None = self._read_once(client)
                self._outage.over()
            except Exception as error:
                news = self._judge(error, client)
            if news is not None:
                self.tell(news)
                return

    def _read_once(self, client: APIClient) -> Ending | None:
        """Read what there is now; gives how the container ended, None if there is more to come."""
        if not self._done:
            self._relay(client)
        state = client.inspect_container(self._container.id)["State"]
        unborn = state["Status"] == "created" and time.monotonic() < self._born + 2 * LAUNCH_TIME
        if state["Status"] in LIVING or unborn:
            self._note_start(state["StartedAt"])
            self._stopped.wait(self._pause)
            self._pause = min(self._pause * 1.5, SLOWEST)
            return None
        if not self._done:
            for piece in Jobs(client, self._engine.url).log_of(self._container.id, self._offset):
                self._take(piece)
        return self._ending(client, state)

    def _note_start(self, started: str) -> None:
        """Read on in a container that somebody has started again after the node's last word."""
        self._done = self._done and self._up_since in ("", started)
        self._up_since = started

    def _ending(self, client: APIClient, state: dict[str, Any]) -> Ending:
        said = b"" if self._done else client.logs(self._container.id, tail=SAID)
        return Ending(
            name=self._container.name,
            code=int(state["ExitCode"]),
            out_of_memory=bool(state["OOMKilled"]),
            reason=" ".join(state["Error"].split()),
            last_words=" | ".join(said.decode(errors="replace").split("\n")).strip(" |")[-500:],
        )

    # -- the log

    def _relay(self, client: APIClient) -> None:
        """Have the log pushed to us until the relay ends; at once, if the container does not run."""
        import docker.errors

        argv = [self._container.python, "-I", "-S", ENTRY, "relay", str(NODE), str(self._offset)]
        try:
            relay = client.exec_create(self._container.id, argv, stdin=True)["Id"]
        except docker.errors.APIError as error:
            if error.status_code == 409:  # it does not run
                return
            raise
        stream = self._stream = Stream(client.exec_start(relay, socket=True))
        try:
            self._listen(stream)
        finally:
            self._stream, self._rest = None, b""
            stream.close()

    def _listen(self, stream: Stream) -> None:
        if self._stopped.is_set():  # perhaps before there was a stream to be ended
            return
        for output, data in stream.frames():
            if output == 1:
                self._take(data)

    def _take(self, data: bytes) -> None:
        """Hand on whole lines, so that our position is always the beginning of one."""
        self._rest += data
        end = self._rest.rfind(b"\n") + 1
        whole, self._rest = self._rest[:end], self._rest[end:]
        if whole:
            self._offset += len(whole)
            self._done = self._done or LAST_WORD in whole
            self._pause = PAUSE
            self.tell(whole)

    # -- the engine

    def _judge(self, error: Exception, client: APIClient | None) -> Ending | MusterError | None:
        """Say what an error means: the container is gone, the engine is away (then wait), or there is no use in going on."""
        import docker.errors

        if isinstance(error, docker.errors.NotFound):
            return Ending(name=self._container.name, found=False)
        if isinstance(error, docker.errors.APIError) and error.status_code == 409:  # it is being removed
            self._stopped.wait(PAUSE)
            return None
        if isinstance(error, docker.errors.APIError) and (error.status_code or 500) < 500:
            return TargetError(f"reading container {self._container.name} failed: {error.explanation or error}")
        if isinstance(error, connection_errors(OSError, TargetError)):
            return self._wait_for_engine(error, client)
        return TargetError(f"reading container {self._container.name} failed: {type(error).__name__}: {error}")

    def _wait_for_engine(self, error: Exception, client: APIClient | None) -> MusterError | None:
        try:
            pause = self._outage.goes_on(error, client)
        except TargetError as too_long:
            return too_long
        self._stopped.wait(pause)
        return None

    def _note(self, text: str) -> None:
        if self._container.node == 0:  # once for the job
            self.tell(text)
