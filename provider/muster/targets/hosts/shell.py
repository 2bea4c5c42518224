"""Shell: runs commands on a machine; argv in, exit status and bytes out. :class:`LocalShell` is this machine's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from muster.core.errors import TargetError

CHUNK = 1 << 18  # bytes written to a stream before we look whether the other end keeps up


class ConnectionLost(TargetError):
    """The connection to a machine was lost; the command may or may not have run."""


class CommandTimeout(TargetError):
    """A command did not end within its limit; it may still run."""


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """Result of a command; ``code`` is 128 + signal if a signal ended it."""

    code: int
    out: bytes
    err: bytes

    @property
    def message(self) -> str:
        """Return the end of the command's stderr (else stdout) in one line, for an error."""
        return " ".join((self.err or self.out).decode(errors="replace").split())[-500:]


class Stream(Protocol):
    """A running command with its standard input and output."""

    async def write(self, data: bytes) -> None:
        """Send to the command's input; waits while it does not keep up.

        :raises Lost: the command reads no more.
        """
        ...

    async def end(self) -> None:
        """Close the command's input; its output can still be read."""
        ...

    async def read(self, size: int) -> bytes:
        """Return at most ``size`` bytes of output as they come; b"" at its end, also when the connection is lost."""
        ...

    async def close(self) -> None:
        """Close both directions, and end a command that does not end by itself."""
        ...

    async def wait(self) -> CommandResult:
        """Wait for the command's end; return its exit status and its stderr."""
        ...


class Shell(Protocol):
    """Runs commands on one machine. ``machine`` names it in messages."""

    @property
    def machine(self) -> str: ...

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", limit: float = 60.0) -> CommandResult:
        """Run a command to its end.

        :raises TooSlow: it took longer than ``limit`` seconds.
        :raises Lost: the connection was lost meanwhile.
        """
        ...

    async def open(self, argv: Sequence[str]) -> Stream:
        """Start a command; return its streams.

        :raises Lost: the connection is gone.
        """
        ...

    async def close(self) -> None:
        """Release the machine; detached commands go on."""
        ...


async def send(shell: Shell, argv: Sequence[str], pieces: Iterable[bytes] | AsyncIterable[bytes]) -> CommandResult:
    """Run a command whose input is sent in pieces."""
    stream = await shell.open(argv)
    try:
        async for piece in _each(pieces):
            try:
                await stream.write(piece)
            except ConnectionLost:  # its exit status explains why it does not read on
                break
        await stream.end()
        out = b""
        while data := await stream.read(CHUNK):
            out += data
        done = await stream.wait()
        return CommandResult(code=done.code, out=out, err=done.err)
    finally:
        await stream.close()


async def _each(pieces: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(pieces, AsyncIterable):
        async for piece in pieces:
            yield piece
    else:
        for piece in pieces:
            yield piece


# -- this machine


@dataclass(frozen=True, kw_only=True)
class LocalShell:
    """This machine."""

    machine: str = "this machine"

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", limit: float = 60.0) -> CommandResult:
        """Run a command to its end; see :class:`Shell`."""
        process = await _spawn(argv, self.machine)
        try:
            out, err = await asyncio.wait_for(process.communicate(stdin), limit)
        except TimeoutError:
            raise CommandTimeout(f"{shlex.join(argv)[:200]} on {self.machine} did not end within {limit:g} s") from None
        finally:
            _end(process)
        return CommandResult(code=exit_code(process.returncode), out=out, err=err)

    async def open(self, argv: Sequence[str]) -> Stream:
        """Start a command; see :class:`Shell`."""
        return LocalStream(await _spawn(argv, self.machine), self.machine)

    async def close(self) -> None:
        """Release nothing: this machine needs no connection."""


class LocalStream:
    """A process of this machine."""

    def __init__(self, process: asyncio.subprocess.Process, machine: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process, self._machine = process, machine
        self._in, self._out = process.stdin, process.stdout
        self._errors = asyncio.ensure_future(process.stderr.read())

    async def write(self, data: bytes) -> None:
        """Send to the process."""
        try:
            self._in.write(data)
            await self._in.drain()
        except OSError as error:
            raise ConnectionLost(f"the command on {self._machine} takes no more input: {error}") from error

    async def end(self) -> None:
        """Close its input."""
        with contextlib.suppress(OSError):
            self._in.close()
            await self._in.wait_closed()

    async def read(self, size: int) -> bytes:
        """Return what there is."""
        return await self._out.read(size)

    async def close(self) -> None:
        """End the process if it still runs."""
        await self.end()
        _end(self._process)
        await self._process.wait()
        await asyncio.gather(self._errors, return_exceptions=True)

    async def wait(self) -> CommandResult:
        """Wait for its end."""
        err = await self._errors
        return CommandResult(code=exit_code(await self._process.wait()), out=b"", err=err)


async def _spawn(argv: Sequence[str], machine: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    try:
        return await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    except OSError as error:
        raise TargetError(f"{argv[0]} can't be run on {machine}: {error.strerror}; install it, or correct its path") from error


def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def exit_code(returncode: int | None) -> int:
    """Return the exit code of a command: 128 + signal if a signal ended it, 255 if it is unknown."""
    code = 255 if returncode is None else returncode
    return code if code >= 0 else 128 - code
