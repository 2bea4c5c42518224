"""The mesh: requests and heartbeats between the leader and the other agents, over TLS pinned to the job's one certificate."""

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
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from muster.core.retry import Backoff
from muster.node.rpc import Commands, Reply, Request, one_line

PORT_CANDIDATES = 6
PORT_BASE, PORT_SPAN = 21000, 11000  # below the usual ephemeral range
HEARTBEAT = 3.0  # seconds between two heartbeats
SILENCE = 20.0  # seconds without one after which a peer counts as lost
CONNECT_LIMIT = 1.5  # seconds for the kernel to connect, in which it tries twice; a firewall's silence would take minutes
SILENT_LIMIT = 30.0  # seconds without any answer, not even a refusal, after which a leader's host counts as unreachable
MAX_MESSAGE = 64 << 20  # bytes; lists of files can be long

BEAT = {"do": "beat"}
NO_ANSWER = "no answer"
SILENT = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)

A = TypeVar("A")


class PeerLost(Exception):
    """The other end is gone or silent for too long."""


def ports_of(job: str) -> list[int]:
    """Return the ports that a job's leader may listen on, in the order to try; ``job`` names the attempt."""
    seed = hashlib.sha256(job.encode()).digest()
    numbers = (int.from_bytes(seed[2 * i : 2 * i + 2], "big") for i in range(PORT_CANDIDATES))
    return [PORT_BASE + number % PORT_SPAN for number in numbers]


def tls(certificate: Path, server: bool) -> ssl.SSLContext:
    """Return a TLS context that accepts the job's one certificate only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate)
    context.load_cert_chain(certificate)
    return context


class Peer:
    """One connection: requests with replies in both directions, pushes without, and a heartbeat.

    ``commands`` serve the other side's requests and pushes. A push that fails has no reply: the connection is closed instead.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, commands: Commands) -> None:
        self._reader, self._writer, self._commands = reader, writer, commands
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_received = time.monotonic()
        self._beat: asyncio.TimerHandle | None = None
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ask(self, request: Request[A]) -> A:
        """Send a request; return the answer.

        :raises PeerLost: the other side is gone.
        :raises CommandFailed: the other side could not do it.
        """
        if self.lost.done():
            raise PeerLost(self.lost.result())
        number = next(self._numbers)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        self._send({"id": number, **request.encode()})
        return request.decode_reply(await reply)

    def push(self, request: Request[None]) -> None:
        """Send a request that wants no reply; silently dropped when the other side is gone."""
        self._send(request.encode())

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        if not self.lost.done():
            with contextlib.suppress(OSError, RuntimeError):
                self._writer.write(line)

    async def serve(self) -> None:
        """Read until the other side is gone; never raises."""
        why = "its connection closed"
        self._schedule_beat()
        try:
            while line := await self._reader.readline():
                self._last_received = time.monotonic()
                self._dispatch(json.loads(line))
        except (OSError, ValueError, ssl.SSLError, asyncio.IncompleteReadError) as error:
            why = f"its connection broke: {error}"
        self._lose(why)

    def _dispatch(self, message: dict[str, Any]) -> None:
        if "re" in message:
            waiting = self._waiting.pop(message["re"], None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
        elif message != BEAT:
            task = asyncio.get_running_loop().create_task(self._answer(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: dict[str, Any]) -> None:
        """Serve a request or a push; every request gets a reply, since the other side waits for nothing else."""
        reply = await self._commands.answer_async(message)
        if "id" not in message:
            if "error" in reply:
                self.disconnect(f"its message {message.get('do')!r} could not be taken: {reply['error']}")
            return
        try:
            self._send({"re": message["id"], **reply})
        except (TypeError, ValueError) as error:  # the answer is no JSON
            self._send({"re": message["id"], "error": one_line(error)})

    def _schedule_beat(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + HEARTBEAT
        self._beat = loop.call_at(due, self._on_beat, due)

    def _on_beat(self, due: float) -> None:
        silence = time.monotonic() - self._last_received
        # where it is us who slept, what the other side has sent meanwhile is still to be read
        if silence > SILENCE and asyncio.get_running_loop().time() - due < HEARTBEAT:
            self._lose(f"it has been silent for {silence:.0f} s")
            self._writer.transport.abort()
        elif not self.lost.done():
            self._send(BEAT)
            self._schedule_beat()

    def _lose(self, why: str) -> None:
        if self._beat is not None:
            self._beat.cancel()
        if not self.lost.done():
            self.lost.set_result(why)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(PeerLost(why))
        self._waiting.clear()

    def disconnect(self, why: str) -> None:
        """Count the other side as lost, and close the connection."""
        self._lose(why)
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.close()

    async def close(self) -> None:
        """Send what is buffered and close."""
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
    address: str, job: str, certificate: Path, deadline: float, on_failure: Callable[[str], None] = lambda why: None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a job's leader, which may not listen yet; try until ``deadline`` (monotonic seconds).

    ``on_failure`` is called after each round over all ports, with the reason why none of them answered.

    :raises PeerLost: no leader of this job was found in time.
    """
    context = tls(certificate, server=False)
    backoff, reasons = Backoff(0.01, 1.0, factor=1.5), dict[int, str]()
    last_answer = time.monotonic()
    while time.monotonic() < min(deadline, last_answer + SILENT_LIMIT):
        for port in ports_of(job):
            try:
                return await open_connection(address, port, context)
            except (OSError, asyncio.TimeoutError) as error:
                reasons[port] = connection_problem(error)
                last_answer = last_answer if is_silent(error) else time.monotonic()
        on_failure(_problems(address, reasons))
        await asyncio.sleep(backoff.next())
    raise PeerLost(f"no leader of this job answered on {_problems(address, reasons)}")


async def open_connection(
    address: str, port: int, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to one port; only the connection has a limit, as the other side may be slow with the rest.

    :raises OSError: nobody listens there.
    :raises asyncio.TimeoutError: no packet came back within the limit.
    """
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    client.setblocking(False)
    try:
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(client, (address, port)), CONNECT_LIMIT)
        return await asyncio.open_connection(sock=client, ssl=context, server_hostname="", limit=MAX_MESSAGE)
    except BaseException:
        client.close()
        raise


def is_silent(error: BaseException) -> bool:
    """Return whether no packet came back from the host: a matter of its network, not of what runs there."""
    return isinstance(error, (TimeoutError, asyncio.TimeoutError)) or getattr(error, "errno", None) in SILENT


def connection_problem(error: BaseException) -> str:
    """Return in a few words why a connection was not made."""
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return NO_ANSWER
    code = getattr(error, "errno", None)
    return os.strerror(code).lower() if code and code > 0 and not isinstance(error, ssl.SSLError) else str(error).lower()


def _problems(address: str, reasons: dict[int, str]) -> str:
    """Return ``10.0.0.1: connection refused on ports 21010, 25321``."""
    ports = {why: ", ".join(str(port) for port, other in reasons.items() if other == why) for why in reasons.values()}
    return f"{address}: " + ", ".join(f"{why} on ports {numbers}" for why, numbers in ports.items())
