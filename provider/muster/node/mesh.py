"""The mesh: JSON messages between the leader and the other agents, over TLS pinned to the job's one certificate."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import itertools
import json
import os
import socket
import ssl
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from muster.core.retry import Backoff

PORT_CANDIDATES = 6
PORT_BASE, PORT_SPAN = 21000, 11000  # below the usual ephemeral range
HEARTBEAT = 3.0  # seconds between two signs of life
SILENCE = 20.0  # seconds without one after which a peer counts as lost
CONNECT_LIMIT = 1.5  # seconds for the kernel to connect, in which it tries twice; a firewall's silence would take minutes
SILENT_LIMIT = 30.0  # seconds without any answer, not even a refusal, after which a leader's host counts as out of reach
MAX_MESSAGE = 64 << 20  # bytes; lists of files can be long

NO_ANSWER = "no answer"
SILENT = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)

Handler = Callable[[dict[str, Any]], Awaitable[Any]]


class PeerLost(Exception):
    """The other end is gone or silent for too long."""


class PeerFailed(Exception):
    """The other end is there, but could not do what it was asked; says why in one line."""


def told(error: Exception) -> str:
    """Put an error of ours with its traceback into the agent's own log; gives it in one line for those who asked."""
    traceback.print_exception(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return " ".join(f"{type(error).__name__}: {error}".split())


def ports_of(job: str) -> list[int]:
    """Give the ports a job's leader may listen on, in the order to try; ``job`` names the attempt."""
    seed = hashlib.sha256(job.encode()).digest()
    numbers = (int.from_bytes(seed[2 * i : 2 * i + 2], "big") for i in range(PORT_CANDIDATES))
    return [PORT_BASE + number % PORT_SPAN for number in numbers]


def tls(certificate: Path, server: bool) -> ssl.SSLContext:
    """Make the one-certificate context: who can't show the very certificate is no part of this job."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate)
    context.load_cert_chain(certificate)
    return context


class Peer:
    """One connection: requests with replies in both directions, pushes without, and a heartbeat.

    ``handler(message)`` answers the other side's requests and takes its pushes; its value is the reply. What it raises fails
    the request. A push has nobody who waits for an answer: the other side is lost, as it can't be told that it was not heard.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
        self._reader, self._writer, self._handler = reader, writer, handler
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard = time.monotonic()
        self._beat: asyncio.TimerHandle | None = None
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ask(self, do: str, **fields: Any) -> Any:
        """Send a request and wait for its reply.

        :raises PeerLost: the other side is gone.
        :raises PeerFailed: it could not do it.
        """
        if self.lost.done():
            raise PeerLost(self.lost.result())
        number = next(self._numbers)
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        self._send({"id": number, "do": do, **fields})
        return await reply

    def push(self, do: str, **fields: Any) -> None:
        """Send a message that wants no reply; silently dropped when the other side is gone."""
        if not self.lost.done():
            self._send({"do": do, **fields})

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.write(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    async def serve(self) -> None:
        """Read until the other side is gone; never raises."""
        reason = "its connection closed"
        self._schedule_beat()
        try:
            while line := await self._reader.readline():
                self._heard = time.monotonic()
                self._dispatch(json.loads(line))
        except (OSError, ValueError, ssl.SSLError, asyncio.IncompleteReadError) as error:
            reason = f"its connection broke: {error}"
        self._lose(reason)

    def _dispatch(self, message: dict[str, Any]) -> None:
        if "re" in message:
            waiting = self._waiting.pop(message["re"], None)
            if waiting is None or waiting.done():
                return
            if "error" in message:
                waiting.set_exception(PeerFailed(message["error"]))
            else:
                waiting.set_result(message.get("value"))
        elif message["do"] != "beat":
            task = asyncio.get_running_loop().create_task(self._answer(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: dict[str, Any]) -> None:
        """Have a message handled; whatever is raised is told to the other side, which may wait for nothing else."""
        try:
            value = await self._handler(message)
            if "id" in message:
                self._reply(message, value=value)
        except Exception as error:
            why = told(error)
            if "id" in message:
                self._reply(message, error=why)
            else:
                self.give_up(f"its message {message['do']!r} could not be taken: {why}")

    def _reply(self, message: dict[str, Any], **reply: Any) -> None:
        if not self.lost.done():
            self._send({"re": message["id"], **reply})

    def _schedule_beat(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + HEARTBEAT
        self._beat = loop.call_at(due, self._on_beat, due)

    def _on_beat(self, due: float) -> None:
        silence = time.monotonic() - self._heard
        # where it is us who slept, what the other side has sent meanwhile is still to be read
        if silence > SILENCE and asyncio.get_running_loop().time() - due < HEARTBEAT:
            self._lose(f"it has been silent for {silence:.0f} s")
            self._writer.transport.abort()
        elif not self.lost.done():
            self.push("beat")
            self._schedule_beat()

    def _lose(self, reason: str) -> None:
        if self._beat is not None:
            self._beat.cancel()
        if not self.lost.done():
            self.lost.set_result(reason)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(PeerLost(reason))
        self._waiting.clear()

    def give_up(self, reason: str) -> None:
        """Count the other side as lost, and let it know by closing."""
        self._lose(reason)
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.close()

    async def close(self) -> None:
        """Send what is left and close."""
        self._lose("closed here")
        with contextlib.suppress(OSError, ssl.SSLError, RuntimeError):
            await self._writer.drain()
            self._writer.close()


async def listen(
    address: str, job: str, certificate: Path, on_peer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> asyncio.Server:
    """Listen as a job's leader on the first of its ports that is free.

    :raises OSError: all of them are taken.
    """
    context = tls(certificate, server=True)
    for port in ports_of(job):
        try:
            return await asyncio.start_server(on_peer, address or None, port, ssl=context, limit=MAX_MESSAGE)
        except OSError:
            continue
    raise OSError(f"all ports of the mesh are taken on {address}: {ports_of(job)}")


async def connect(
    address: str, job: str, certificate: Path, give_up: float, tell: Callable[[str], None] = lambda why: None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a job's leader, who may not be there yet; trying until ``give_up`` (monotonic seconds).

    ``tell`` hears, after each round over all ports, why none of them answered.

    :raises PeerLost: no leader of this job was found in time.
    """
    context = tls(certificate, server=False)
    backoff, reasons = Backoff(0.01, 1.0, factor=1.5), dict[int, str]()
    heard = time.monotonic()
    while time.monotonic() < min(give_up, heard + SILENT_LIMIT):
        for port in ports_of(job):
            try:
                return await call(address, port, context)
            except (OSError, asyncio.TimeoutError) as error:
                reasons[port] = reason(error)
                heard = heard if is_silent(error) else time.monotonic()
        tell(_told(address, reasons))
        await asyncio.sleep(backoff.next())
    raise PeerLost(f"no leader of this job answered on {_told(address, reasons)}")


async def call(address: str, port: int, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to one port; only the connection has a limit, as the other side may be slow with the rest.

    :raises OSError: it is not there.
    :raises asyncio.TimeoutError: nothing came back within the limit.
    """
    caller = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    caller.setblocking(False)
    try:
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(caller, (address, port)), CONNECT_LIMIT)
        return await asyncio.open_connection(sock=caller, ssl=context, server_hostname="", limit=MAX_MESSAGE)
    except BaseException:
        caller.close()
        raise


def is_silent(error: BaseException) -> bool:
    """Whether nothing came back from the host, which tells of its network and not of what runs there."""
    return isinstance(error, (TimeoutError, asyncio.TimeoutError)) or getattr(error, "errno", None) in SILENT


def reason(error: BaseException) -> str:
    """Say in a few words why a connection was not made."""
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return NO_ANSWER
    code = getattr(error, "errno", None)
    return os.strerror(code).lower() if code and code > 0 and not isinstance(error, ssl.SSLError) else str(error).lower()


def _told(address: str, reasons: dict[int, str]) -> str:
    """Give ``10.0.0.1: connection refused on ports 21010, 25321``."""
    ports = {why: ", ".join(str(port) for port, other in reasons.items() if other == why) for why in reasons.values()}
    return f"{address}: " + ", ".join(f"{why} on ports {numbers}" for why, numbers in ports.items())
