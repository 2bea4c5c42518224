"""SshShell: a machine at the end of an SSH connection; the one place where commands become shell text, by shlex."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from muster.targets.hosts.shell import CHUNK, CommandResult, CommandTimeout, Stream, exit_code
from muster.targets.hosts.ssh_errors import connection_lost

if TYPE_CHECKING:
    import asyncssh

CHANNELS = 8  # commands at once over one connection; sshd's MaxSessions is 10 unless somebody changed it
CHANNEL_TRIES = 6  # times that a channel is asked for where sshd allows fewer, with growing pauses


class SshShell:
    """A machine at the end of an SSH connection; commands become shell text here and nowhere else."""

    def __init__(self, connection: asyncssh.SSHClientConnection, machine: str) -> None:
        self.machine = machine
        self._connection = connection
        self._channels = asyncio.Semaphore(CHANNELS)

    @property
    def lost(self) -> bool:
        """Return whether the connection is gone."""
        return self._connection.is_closed()

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", limit: float = 60.0) -> CommandResult:
        """Run a command to its end; see :class:`Shell`."""
        async with self._channels:
            process = await self._start(argv)
            try:
                with contextlib.suppress(BrokenPipeError):  # it ended without reading, which its exit status explains
                    process.stdin.write(stdin)
                    process.stdin.write_eof()  # also of nothing
                out, err = await asyncio.wait_for(process.communicate(), limit)
            except TimeoutError:
                raise CommandTimeout(f"{shlex.join(argv)[:200]} on {self.machine} did not end within {limit:g} s") from None
            except breaks() as error:
                raise connection_lost(error, self.machine) from error
            finally:
                process.close()
        return _done(process, self.machine, bytes(out or b""), bytes(err or b""))

    async def open(self, argv: Sequence[str]) -> Stream:
        """Start a command; see :class:`Shell`."""
        await self._channels.acquire()
        try:
            return SshStream(await self._start(argv), self)
        except BaseException:
            self._channels.release()
            raise

    async def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        with contextlib.suppress(*breaks()):
            await asyncio.wait_for(self._connection.wait_closed(), 5.0)

    def release_channel(self) -> None:
        """Release the channel of a closed stream."""
        self._channels.release()

    async def _start(self, argv: Sequence[str]) -> asyncssh.SSHClientProcess[bytes]:
        import asyncssh

        delay = 0.1
        for left in reversed(range(CHANNEL_TRIES)):
            try:
                return await self._connection.create_process(shlex.join(argv), encoding=None)
            except asyncssh.ChannelOpenError as error:
                if self.lost or left == 0:
                    raise connection_lost(error, self.machine) from error
            except breaks() as error:
                raise connection_lost(error, self.machine) from error
            await asyncio.sleep(delay)
            delay *= 2
        raise AssertionError("unreachable")


class SshStream:
    """A command at the other end; the last bytes of its stderr are kept."""

    def __init__(self, process: asyncssh.SSHClientProcess[bytes], shell: SshShell) -> None:
        self._process = process
        self._shell = shell
        self._errors = asyncio.ensure_future(_tail(process.stderr))
        self._open = True

    async def write(self, data: bytes) -> None:
        """Send to the command."""
        view = memoryview(data)
        try:
            for at in range(0, len(data), CHUNK):
                self._process.stdin.write(bytes(view[at : at + CHUNK]))
                await self._process.stdin.drain()
        except breaks() as error:
            raise connection_lost(error, self._shell.machine) from error

    async def end(self) -> None:
        """Close its input."""
        with contextlib.suppress(*breaks()):
            self._process.stdin.write_eof()

    async def read(self, size: int) -> bytes:
        """Read what there is."""
        try:
            return await self._process.stdout.read(size)
        except breaks():
            return b""

    async def close(self) -> None:
        """Close the channel; sshd ends what reads or writes it."""
        if not self._open:
            return
        self._open = False
        try:
            self._process.close()
            with contextlib.suppress(*breaks()):
                await asyncio.wait_for(self._process.wait_closed(), 5.0)
            self._errors.cancel()
            await asyncio.gather(self._errors, return_exceptions=True)
        finally:
            self._shell.release_channel()

    async def wait(self) -> CommandResult:
        """Wait for its end."""
        err = await self._errors
        with contextlib.suppress(*breaks()):
            await self._process.wait_closed()
        return _done(self._process, self._shell.machine, b"", err)


async def _tail(reader: Any, most: int = 65536) -> bytes:
    """Read to the end; return the last bytes."""
    kept = b""
    try:
        while data := await reader.read(most):
            kept = (kept + data)[-most:]
    except Exception:  # a lost connection is reported by the command's wait
        return kept
    return kept


def breaks() -> tuple[type[Exception], ...]:
    """Return the exceptions that a broken connection raises."""
    import asyncssh

    return (asyncssh.Error, OSError, TimeoutError)


def _done(process: asyncssh.SSHClientProcess[bytes], machine: str, out: bytes, err: bytes) -> CommandResult:
    if process.returncode is None:
        raise connection_lost("it was closed before the command had ended", machine)
    return CommandResult(code=exit_code(process.returncode), out=out, err=err)
