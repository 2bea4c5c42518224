"""The one connection to a host, opened when it is needed and again when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

from muster.node.rpc import CommandFailed, Request
from muster.targets.hosts import cache, host_files
from muster.targets.hosts.host_files import HostInfo
from muster.targets.hosts.log_client import LogClient
from muster.targets.hosts.reconnect import ReconnectPolicy
from muster.targets.hosts.shell import CommandResult, ConnectionLost, Shell, Stream
from muster.targets.hosts.ssh_errors import HostUnreachable

A = TypeVar("A")
T = TypeVar("T")
TALKS = 4  # conversations at once; each keeps a channel, of which there are CHANNELS, and others must get through
IDLE = 20.0  # seconds after which a connection that nobody uses is closed


class PersistentShell(Shell, Protocol):
    """A shell that is kept for many callers; when ``lost``, another must be opened."""

    @property
    def lost(self) -> bool: ...


class ShellFactory(Protocol):
    """Opens a shell on a machine."""

    async def open(self) -> PersistentShell: ...


class RemoteHost(Protocol):
    """Settings of a host that a connection needs."""

    @property
    def name(self) -> str: ...
    @property
    def login(self) -> ShellFactory: ...
    @property
    def root(self) -> str: ...
    @property
    def python(self) -> str: ...


class HostConnection:
    """One host of an inventory; lives in the background loop only."""

    def __init__(self, host: RemoteHost) -> None:
        self.host = host
        self.logs = LogClient(self)
        self._shell: PersistentShell | None = None
        self._connecting = asyncio.Lock()
        self._reconnect = ReconnectPolicy()
        self._seen: HostInfo | None = None
        self._busy = 0
        self._talks = asyncio.Semaphore(TALKS)
        self._used = time.monotonic()
        self._closing: asyncio.Task[None] | None = None

    # -- commands

    async def shell(self) -> PersistentShell:
        """Return the connection, and open one if there is none.

        :raises MusterError: it can't be made; see :meth:`Login.open`.
        """
        self._used = time.monotonic()
        async with self._connecting:
            if self._shell is None or self._shell.lost:
                self._shell = None
                self._shell = await self._reconnect.login(self.host.login.open())
            self._close_when_idle()
            return self._shell

    async def use(self, work: Callable[[PersistentShell], Coroutine[Any, Any, T]]) -> T:
        """Run ``work`` on the connection; retry once on a new one if it was lost. ``work`` must be idempotent."""
        with self.in_use():
            try:
                try:
                    return await work(await self.shell())
                except ConnectionLost:
                    return await work(await self.shell())
            except ConnectionLost as lost:
                raise HostUnreachable(f"{lost}; look whether the host is up") from lost

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the connection open meanwhile."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self._used = time.monotonic()

    async def inspect(self, *names: str) -> HostInfo:
        """Inspect the host and send the agent if it is missing; ``have`` lists the names that are there."""
        shell = await self.shell()
        seen = await host_files.inspect_host(shell, self.host.root, self.host.python, cache.agent_name(), *names)
        await cache.put_agent(shell, seen)
        self._seen = seen
        return seen

    async def info(self) -> HostInfo:
        """Return the facts of the host from its last inspection."""
        return self._seen or await self.inspect()

    async def ask(self, part: str, request: Request[A], *, tail: bytes = b"", limit: float = 60.0) -> A:
        """Return the answer of a part of the agent to a request; ``tail`` follows the request on the part's input.

        :raises TargetError: the part failed, or its answer is malformed.
        :raises RequestError: the host can't run the part.
        """
        return await self.use(lambda shell: self._ask(shell, part, request, tail, limit))

    async def _ask(self, shell: PersistentShell, part: str, request: Request[A], tail: bytes, limit: float) -> A:
        stdin = json.dumps(request.encode()).encode() + b"\n" + tail
        seen = self._seen or await self.inspect()
        argv = [seen.python, "-I", "-S", _start(seen), part, seen.root]
        done = await shell.run(argv, stdin=stdin, limit=limit)
        if done.code == 2 and "can't open file" in done.message:  # somebody has emptied the host's root folder
            self._seen = None
            seen = await self.inspect()
            done = await shell.run(argv, stdin=stdin, limit=limit)
        what = f"asking {part} ({request.command})"
        if done.code:
            raise host_files.refusal(done, shell.machine, what, seen.python)
        try:
            return request.decode_reply(host_files.answer_of(done, shell.machine))
        except CommandFailed as failed:
            failure = CommandResult(code=1, out=b"", err=str(failed).encode())
            raise host_files.refusal(failure, shell.machine, what, seen.python) from None

    @contextlib.asynccontextmanager
    async def room(self) -> AsyncIterator[None]:
        """Wait for room for one conversation; the connection is kept meanwhile. Who needs many waits in the order of ``id``."""
        async with self._talks:
            with self.in_use():
                yield

    async def talk(self, part: str) -> Stream:
        """Start a part of the agent that is spoken to until its input ends."""
        seen = await self.info()
        return await self.use(lambda shell: shell.open([seen.python, "-I", "-S", _start(seen), part, seen.root]))

    # -- the end

    def _close_when_idle(self) -> None:
        if self._closing is None or self._closing.done():
            self._closing = asyncio.get_running_loop().create_task(self._close_later())

    async def _close_later(self) -> None:
        while self._shell is not None:
            await asyncio.sleep(IDLE / 4)
            idle = not self._busy and time.monotonic() > self._used + IDLE
            if idle and not self._connecting.locked():
                shell, self._shell = self._shell, None
                await shell.close()


def _start(seen: HostInfo) -> str:
    return f"{seen.root}/{cache.agent_name()}/{cache.START}"
