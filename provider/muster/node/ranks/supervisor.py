"""Supervises the ranks of a node: starts them through shims, reads their output line by line, records their exits."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muster.core import event
from muster.core.codec import from_data, to_data
from muster.core.paths import NodePaths
from muster.node.event_log import EventLog
from muster.node.ranks.commands import ServeRank

MAX_LINE = 65536  # bytes of one line event; a longer line goes on in the next, marked as a part
READ_SIZE = 1 << 18
TAIL_LINES = 200  # lines kept in memory to find the exception line in
SPAWNER = -1  # the pseudo rank of the program that starts the ranks, where there is one
NOT_STARTED = "the process that starts it ended before it could; see agent.log in the node's folder"
QUIET_FLUSH = 1.0  # seconds after which an unfinished line (a prompt, a progress bar) is recorded


@dataclass(frozen=True, kw_only=True)
class RankSpec:
    """One rank, all placeholders resolved: ready to run."""

    rank: int
    argv: list[str]
    env: dict[str, str]
    cwd: str
    local_rank: int = 0
    decides: bool = True
    name: str = ""  # of the raw log, where it is not the rank's own
    number: int | None = None  # the rank by the spawner's count, where that may be another


@dataclass(frozen=True, kw_only=True)
class ProcessExit:
    """Exit of a rank's process, as its shim reports it; ``at`` in seconds since the epoch.

    ``why``: the reason where the rank's own output can't have it. ``vanished``: its shim was killed, so that nobody knows how
    the rank itself ended.
    """

    exit_code: int | None
    signal: int | None
    at: float = field(default_factory=time.time)
    max_rss_kb: int | None = None
    why: str = ""
    vanished: bool = False


@dataclass(frozen=True, kw_only=True)
class _ShimReport:
    """A message of a shim: the pid of the rank that it has started, or how the rank ended."""

    started: int | None = None
    ended: ProcessExit | None = None


class RankMetrics:
    """Reads the rows that ``muster.tracking`` appends to a rank's metrics file; not those of an earlier process of the rank."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def read_new(self) -> list[dict[str, Any]]:
        """Return the whole rows since the last call; none if the file can't be read, as a rank can do anything with it."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [row for row in map(_row, whole.splitlines()) if row]


@dataclass(kw_only=True)
class RankProcess:
    """One rank while it runs: its shim, pid, output so far and, in the end, how it ended."""

    spec: RankSpec
    log: Any
    shim: int = 0
    pid: int = 0
    started: float = 0.0
    exit: ProcessExit | None = None
    victim: bool = False  # ended by us, because the run was already ending
    connected: bool = False  # its shim has connected to us
    output: int = -1
    rest: bytes = b""
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    metrics: RankMetrics | None = None
    rest_since: float = 0.0  # when the unfinished line was last added to
    flush: asyncio.TimerHandle | None = None

    @property
    def failed(self) -> bool:
        """Return whether the rank has ended, and not with exit code 0."""
        return self.exit is not None and self.exit.exit_code != 0


class RankSupervisor:
    """Starts the ranks of a node and turns their output and exits into events.

    ``on_exit(rank)`` is called once for each rank, after its last line is in the event log.
    """

    def __init__(self, paths: NodePaths, log: EventLog, on_exit: Callable[[RankProcess], None]) -> None:
        self._paths = paths
        self._log = log
        self._on_exit = on_exit
        self.processes: dict[int, RankProcess] = {}
        self.last_metrics: dict[str, float] = {}

    def reset(self) -> None:
        """Drop the processes of an earlier start."""
        self._paths.ranks.mkdir(exist_ok=True)
        self.processes = {}

    def start(self, spec: RankSpec) -> None:
        """Start a shim, which fetches the spec from us."""
        process = self._add(spec)
        shim = str(Path(__file__).with_name("shim.py"))
        argv = [sys.executable, "-I", "-S", shim, str(self._paths.root), str(spec.rank)]
        process.shim = os.posix_spawn(
            sys.executable, argv, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
        )

    def _add(self, spec: RankSpec) -> RankProcess:
        path = self._paths.ranks / f"{spec.name}.log" if spec.name else self._paths.rank_log(spec.rank)
        process = RankProcess(spec=spec, log=path.open("ab", buffering=0))
        if metrics := spec.env.get("MUSTER_METRICS"):
            process.metrics = RankMetrics(Path(metrics))
        self.processes[spec.rank] = process
        return process

    async def serve(self, connection: socket.socket, request: ServeRank) -> None:
        """Serve a shim that we have started."""
        process = self.processes[request.rank]
        if process.exit is None:
            await self._serve(connection, process)

    def record_reaped(self, children: Mapping[int, int]) -> None:
        """Record children of ours that have ended, with exit code or -signal; a shim that never connected ends its rank."""
        for process in list(self.processes.values()):
            if process.shim in children and not process.connected and process.exit is None:
                code = children[process.shim] or 1  # with any exit code, it has run no rank
                exit_code, number = (code, None) if code > 0 else (None, -code)
                self._end(process, ProcessExit(exit_code=exit_code, signal=number, why=NOT_STARTED))

    async def join(self, connection: socket.socket, spec: RankSpec, shim: int) -> None:
        """Serve a shim that a spawner started; a rank has only one.

        :raises ValueError: there is one for this rank already.
        """
        if spec.rank in self.processes:
            raise ValueError(f"rank {spec.rank} is there already")
        process = self._add(spec)
        process.shim = shim
        await self._serve(connection, process)

    async def _serve(self, connection: socket.socket, process: RankProcess) -> None:
        """Serve one shim to the end of its rank; one that vanishes counts as SIGKILL, as does a rank whose output is lost."""
        process.connected = True
        try:
            end = await self._exchange(connection, process)
        except ConnectionError:
            end = ProcessExit(exit_code=None, signal=signal.SIGKILL, vanished=True)
        except Exception as error:  # whatever it is, the run must not wait for this rank
            traceback.print_exc()
            why = f"the agent lost hold of this rank: {type(error).__name__}: {error}"
            end = ProcessExit(exit_code=None, signal=signal.SIGKILL, why=why)
        self._end(process, end)

    async def _exchange(self, connection: socket.socket, process: RankProcess) -> ProcessExit:
        """Send a shim its spec, receive its rank's pid and output pipe; return the exit that it reports."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(connection, json.dumps(to_data(process.spec)).encode() + b"\n")
        await _readable(connection)
        data, fds, _, _ = socket.recv_fds(connection, 4096, 1)
        report = _report_of(data)
        if report.started is not None:
            self._adopt(process, report.started, fds)
            report = _report_of(await loop.sock_recv(connection, 4096))
        if report.ended is None:
            raise ValueError("its shim reported no exit")
        return report.ended

    def _adopt(self, process: RankProcess, pid: int, fds: list[int]) -> None:
        process.pid, process.started = pid, time.time()
        if not fds:  # the kernel drops what we have no room for
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        process.output = fds[0]
        os.set_blocking(process.output, False)
        number = {} if process.spec.number is None else {"number": process.spec.number}
        self._log.add(event.RANK_START, rank=process.spec.rank, pid=process.pid, **number)
        asyncio.get_running_loop().add_reader(process.output, self._read, process)

    def _read(self, process: RankProcess) -> bool:
        """Read what the rank has written; return whether there may be more."""
        try:
            data = os.read(process.output, READ_SIZE)
        except BlockingIOError:
            return False
        if not data:
            self._close_output(process)
            return False
        try:
            process.log.write(data)
        except OSError as error:
            self._log.report_full(error)
        self._add_output(process, data)
        return True

    def _add_output(self, process: RankProcess, data: bytes) -> None:
        lines = (process.rest + data).split(b"\n")
        process.rest = lines.pop()
        events = [item for line in lines for item in self._line_events(process, line)]
        if len(process.rest) >= MAX_LINE:
            events += self._line_events(process, process.rest, unfinished=True)
            process.rest = b""
        self._log.add_all(events)
        process.rest_since = asyncio.get_running_loop().time()
        if process.rest and process.flush is None:
            self._flush_in(QUIET_FLUSH, process)

    def _flush_in(self, delay: float, process: RankProcess) -> None:
        process.flush = asyncio.get_running_loop().call_later(delay, self._flush, process)

    def _flush(self, process: RankProcess) -> None:
        """Record an unfinished line that nothing was added to for a while; a newer one waits its own time."""
        process.flush = None
        quiet = asyncio.get_running_loop().time() - process.rest_since
        if process.rest and quiet < QUIET_FLUSH:
            self._flush_in(QUIET_FLUSH - quiet, process)
        elif process.rest:
            self._log.add_all(self._line_events(process, process.rest, unfinished=True))
            process.rest = b""

    @staticmethod
    def _line_events(process: RankProcess, line: bytes, unfinished: bool = False) -> list[tuple[str, dict[str, Any]]]:
        pieces = [line[i : i + MAX_LINE] for i in range(0, len(line), MAX_LINE)] or [b""]
        events = []
        for index, piece in enumerate(pieces):
            text = piece.decode("utf-8", errors="replace").removesuffix("\r")
            part = {"part": True} if unfinished or index < len(pieces) - 1 else {}
            events.append((event.LINE, {"rank": process.spec.rank, "text": text, **part}))
            process.tail.append(text)
        return events

    def _close_output(self, process: RankProcess) -> None:
        if process.output >= 0:
            asyncio.get_running_loop().remove_reader(process.output)
            os.close(process.output)
            process.output = -1

    def _end(self, process: RankProcess, end: ProcessExit) -> None:
        """Record the exit of a rank, even if the rest of its output or metrics can't be read."""
        try:
            self._read_rest(process)
        except Exception:
            traceback.print_exc()
        process.exit = end
        seconds = round(end.at - (process.started or end.at), 3)
        how = {"exit_code": end.exit_code} if end.signal is None else {"signal": end.signal}
        try:
            self._log.add(event.RANK_END, rank=process.spec.rank, seconds=seconds, max_rss_kb=end.max_rss_kb, **how)
        finally:
            self._on_exit(process)

    def _read_rest(self, process: RankProcess) -> None:
        while process.output >= 0 and self._read(process):
            pass
        if process.flush is not None:
            process.flush.cancel()
        if process.rest:
            self._log.add_all(self._line_events(process, process.rest))
            process.rest = b""
        self.read_metrics()

    def read_metrics(self) -> None:
        """Record what the ranks have logged by ``muster.tracking`` since the last call."""
        for process in self.processes.values():
            if process.metrics is not None:
                self._log.add_all([self._metric_event(process, row) for row in process.metrics.read_new()])

    def _metric_event(self, process: RankProcess, row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        if isinstance(row.get("value"), (int, float)):
            with contextlib.suppress(OverflowError):  # of an integer that no float can hold
                self.last_metrics[row["name"]] = float(row["value"])
        return event.METRIC, {"rank": process.spec.rank, **{key: row[key] for key in ("name", "value", "step") if key in row}}

    def close(self) -> None:
        """Close all outputs, those that a descendant still holds open included."""
        for process in self.processes.values():
            while process.output >= 0 and self._read(process):
                pass
            self._close_output(process)
            process.log.close()


def _report_of(data: bytes) -> _ShimReport:
    """Read a message of a shim.

    :raises ConnectionError: the shim is gone.
    """
    if not data:
        raise ConnectionError("the shim is gone")
    return from_data(_ShimReport, json.loads(data))


def _row(line: bytes) -> dict[str, Any]:
    """Read one row; return {} for what is no metric."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) and isinstance(row.get("name"), str) else {}


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(connection.fileno(), lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(connection.fileno())
