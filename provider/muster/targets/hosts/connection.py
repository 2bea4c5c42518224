"""Link: the one connection to a host, made when it is needed and anew when it is lost, and the host's one hub over it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from muster.core.errors import MusterError, TargetError
from muster.node.rpc import CommandFailed, Request
from muster.targets.hosts import cache, host_files
from muster.targets.hosts.host_files import HostInfo
from muster.targets.hosts.log_frames import FrameReader
from muster.targets.hosts.reconnect import ReconnectPolicy
from muster.targets.hosts.shell import CommandResult, ConnectionLost, Shell, Stream
from muster.targets.hosts.ssh_errors import Unreachable

A = TypeVar("A")
T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between two tries to connect
TALKS = 4  # conversations at once; each keeps a channel, of which there are CHANNELS, and others must get through
IDLE = 20.0  # seconds after which a connection that nobody uses is closed


class PersistentShell(Shell, Protocol):
    """A shell that is kept for many callers; ``lost`` says that another must be opened."""

    @property
    def lost(self) -> bool: ...


class ShellFactory(Protocol):
    """What gives a shell: a login."""

    async def open(self) -> PersistentShell: ...


class RemoteHost(Protocol):
    """What a link needs to know of its host."""

    @property
    def name(self) -> str: ...
    @property
    def login(self) -> ShellFactory: ...
    @property
    def root(self) -> str: ...
    @property
    def python(self) -> str: ...


class LogListener(Protocol):
    """Who is told of one watched node, always in the loop of the links."""

    def take(self, data: bytes) -> bool:
        """Take whole lines; False if there is no room for more until ``NodeWatch.resume``."""
        ...

    def end(self, ending: dict[str, Any]) -> None:
        """Hear that nothing of the node is left."""
        ...

    def fail(self, error: MusterError) -> None:
        """Hear that it can't be watched any more, however often it is tried."""
        ...


@dataclass(kw_only=True)
class NodeWatch:
    """One watched node folder; ``key`` names it to the hub and changes whenever its position is told anew.

    ``outside``: whether it lives is not to be seen on that host; whoever knows says so by :meth:`Link.over`.
    """

    connection: HostConnection
    folder: str
    offset: int
    sink: LogListener
    quiet: bool = False
    outside: bool = False
    over: bool = False
    key: int = 0
    paused: bool = False

    def resume(self) -> None:
        """Go on after there was no room."""
        if self.paused:
            self.paused = False
            self.connection.tell_hub(self)


class HostConnection:
    """One host of an inventory; lives in the background loop only."""

    def __init__(self, host: RemoteHost) -> None:
        self.host = host
        self.lost_since = 0.0  # by time.monotonic(); 0 while connected or not needed
        self._shell: PersistentShell | None = None
        self._connecting = asyncio.Lock()
        self._reconnect = ReconnectPolicy()
        self._seen: HostInfo | None = None
        self._heard = 0.0
        self._busy = 0
        self._talks = asyncio.Semaphore(TALKS)
        self._used = time.monotonic()
        self._keys = itertools.count(1)
        self._watches: dict[int, NodeWatch] = {}
        self._hub_task: asyncio.Task[None] | None = None
        self._asking: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._closing: asyncio.Task[None] | None = None

    # -- commands

    async def shell(self) -> PersistentShell:
        """Give the connection, made now if there is none.

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
        """Do something that may be repeated over the connection; once more over a new one if that turns out to be lost."""
        self._busy += 1
        try:
            try:
                return await work(await self.shell())
            except ConnectionLost:
                return await work(await self.shell())
        except ConnectionLost as lost:
            raise Unreachable(f"{lost}; look whether the host is up") from lost
        finally:
            self._busy -= 1
            self._used = time.monotonic()

    async def inspect(self, *names: str) -> HostInfo:
        """Look at the host, and put the agent there unless it is; ``have`` tells which names are there."""
        shell = await self.shell()
        seen = await host_files.look(shell, self.host.root, self.host.python, cache.agent_name(), *names)
        await cache.put_agent(shell, seen)
        self._seen = seen
        return seen

    async def info(self) -> HostInfo:
        """Give what the host is, from the last look at it."""
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
        if done.code == 2 and "can't open file" in done.said:  # somebody has emptied the host's root folder
            self._seen = None
            seen = await self.inspect()
            done = await shell.run(argv, stdin=stdin, limit=limit)
        what = f"asking {part} ({request.command})"
        if done.code:
            raise host_files.refusal(done, shell.where, what, seen.python)
        try:
            return request.decode_reply(host_files.answer_of(done, shell.where))
        except CommandFailed as failed:
            failure = CommandResult(code=1, out=b"", err=str(failed).encode())
            raise host_files.refusal(failure, shell.where, what, seen.python) from None

    @contextlib.asynccontextmanager
    async def room(self) -> AsyncIterator[None]:
        """Wait for room for one conversation; the connection is kept meanwhile. Who needs many waits in the order of ``id``."""
        async with self._talks:
            self._busy += 1
            try:
                yield
            finally:
                self._busy -= 1
                self._used = time.monotonic()

    async def talk(self, part: str) -> Stream:
        """Start a part of the agent that is spoken to until its input ends."""
        seen = await self.info()
        return await self.use(lambda shell: shell.open([seen.python, "-I", "-S", _start(seen), part, seen.root]))

    # -- the hub

    def watch(self, folder: str, offset: int, sink: LogListener, *, quiet: bool = False, outside: bool = False) -> NodeWatch:
        """Have a node's log pushed to ``sink``, over as many connections as it takes; ``quiet``: only its end."""
        watch = NodeWatch(connection=self, folder=folder, offset=offset, sink=sink, quiet=quiet, outside=outside)
        self.tell_hub(watch)
        return watch

    def forget(self, watch: NodeWatch) -> None:
        """Watch a node no more."""
        if self._watches.pop(watch.key, None) is not None:
            self._asking.put_nowait({"do": "forget", "key": watch.key})
        self._used = time.monotonic()

    def over(self, watch: NodeWatch) -> None:
        """Say of a node watched from ``outside`` that it will write nothing more; its end comes after what it has written."""
        watch.over = True
        if watch.key in self._watches:
            self._asking.put_nowait({"do": "over", "key": watch.key})

    def tell_hub(self, watch: NodeWatch) -> None:
        """Tell where to go on with a node, by a new key: what is still on the way for the old one counts for nothing."""
        self._watches.pop(watch.key, None)
        watch.key = next(self._keys)
        self._watches[watch.key] = watch
        self._asking.put_nowait(self._wish(watch))
        if self._hub_task is None or self._hub_task.done():  # also when all that was watched had been paused
            self._hub_task = asyncio.get_running_loop().create_task(self._serve())

    @staticmethod
    def _wish(watch: NodeWatch) -> dict[str, Any]:
        wish = {"do": "watch", "key": watch.key, "folder": watch.folder, "offset": watch.offset, "quiet": watch.quiet}
        return {**wish, "outside": watch.outside, "over": watch.over}

    async def _serve(self) -> None:
        """Keep a hub running as long as something is watched."""
        pause = FIRST_PAUSE
        while self._watches:
            began = self._heard = time.monotonic()
            try:
                await self._serve_once()
            except (TargetError, TimeoutError):
                pass  # it may come right: a host that starts, a disk that is full
            except Exception as error:
                self._fail(error if isinstance(error, MusterError) else TargetError(f"host {self.host.name}: {error!r}"))
                return
            if self._watches:
                self.lost_since = self.lost_since or self._heard
                pause = FIRST_PAUSE if self._heard > began + LONGEST_PAUSE else min(pause * 2, LONGEST_PAUSE)
                await asyncio.sleep(pause * random.uniform(0.7, 1.3))

    async def _serve_once(self) -> None:
        shell = await self.shell()
        seen = await self.inspect()
        hub = await shell.open([seen.python, "-I", "-S", _start(seen), "log-stream"])
        teller = asyncio.get_running_loop().create_task(self._tell(hub))
        try:
            frames = FrameReader(hub)
            while self._watches and (frame := await frames.next()):
                self._heard, self.lost_since = time.monotonic(), 0.0
                self._hear(*frame)
        finally:
            teller.cancel()
            await asyncio.gather(teller, return_exceptions=True)
            await hub.close()

    async def _tell(self, hub: Stream) -> None:
        """Tell a new hub all that is watched, then what changes."""
        while not self._asking.empty():
            self._asking.get_nowait()
        wishes = [self._wish(watch) for watch in self._watches.values() if not watch.paused]
        with contextlib.suppress(ConnectionLost):
            await hub.write(b"".join(json.dumps(wish).encode() + b"\n" for wish in wishes))
            while True:
                await hub.write(json.dumps(await self._asking.get()).encode() + b"\n")

    def _hear(self, head: dict[str, Any], data: bytes) -> None:
        watch = self._watches.get(int(head.get("key", 0)))
        if watch is None:
            return
        if data:
            watch.offset += len(data)
            if not watch.sink.take(data):
                self.forget(watch)
                watch.paused = True
        elif head.get("silent"):
            del self._watches[watch.key]
            watch.sink.end(head)

    def _fail(self, error: MusterError) -> None:
        watches, self._watches = list(self._watches.values()), {}
        for watch in watches:
            watch.sink.fail(error)

    # -- the end

    def _close_when_idle(self) -> None:
        if self._closing is None or self._closing.done():
            self._closing = asyncio.get_running_loop().create_task(self._close_later())

    async def _close_later(self) -> None:
        while self._shell is not None:
            await asyncio.sleep(IDLE / 4)
            idle = not self._watches and not self._busy and time.monotonic() > self._used + IDLE
            if idle and not self._connecting.locked():
                shell, self._shell = self._shell, None
                await shell.close()


def _start(seen: HostInfo) -> str:
    return f"{seen.root}/{cache.agent_name()}/{cache.START}"
