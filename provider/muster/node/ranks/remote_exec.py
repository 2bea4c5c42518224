"""Remote exec: lines of shell that node 0's spawner runs on other nodes, through the agents and without sshd."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

from muster.core.plan import node_host_name
from muster.node.mesh import PeerLost
from muster.node.ranks.commands import LineOutput, RunLine, RunRemotely
from muster.node.rpc import CommandFailed, Request

FAILED = 255  # the exit code of a line that could not be run at all
READ_SIZE = 1 << 16
# the inner shell runs the line, the outer one reports its exit code: what the line leaves running may keep the output open
_WRAPPER = 'cd "$2"; /bin/sh -c "$1" 3>&-; echo $? >&3'

A = TypeVar("A")


class Ask(Protocol):
    """Sends a request to the agent of any node."""

    def __call__(self, node: int, request: Request[A], /) -> Awaitable[A]:
        """Return the node's answer.

        :raises PeerLost: the node is gone.
        :raises CommandFailed: the node could not do it.
        """
        ...


class RemoteExec:
    """The lines that node 0's spawner has running on the nodes; node ``i`` is called ``node-<i>``."""

    def __init__(self, node_count: int, ask: Ask) -> None:
        self._nodes = {node_host_name(node): node for node in range(node_count)}
        self._numbers = itertools.count(1)
        self._clients: dict[int, asyncio.StreamWriter] = {}
        self._ask = ask

    async def serve(self, connection: socket.socket, request: RunRemotely) -> None:
        """Run one line on its node; send its output and exit code back to the remote shell."""
        number = next(self._numbers)
        _, client = await asyncio.open_connection(sock=connection.dup())
        self._clients[number] = client
        exit_code, error = await self._run(number, request)
        del self._clients[number]
        client.write(_line(exit=exit_code, error=error))
        await client.drain()
        client.close()

    async def _run(self, number: int, request: RunRemotely) -> tuple[int, str]:
        """Return the exit code, and what kept the line from being run."""
        node = self._nodes.get(request.host)
        if node is None:
            known = f"{node_host_name(0)} to {node_host_name(len(self._nodes) - 1)}"
            return FAILED, f"no node of this job is called {request.host!r}; they are {known}"
        try:
            return await self._ask(node, RunLine(number=number, line=request.line)), ""
        except PeerLost as error:
            return FAILED, f"node {node} was lost: {error}"
        except CommandFailed as error:
            return FAILED, str(error)

    def forward(self, output: LineOutput) -> None:
        """Forward what a line wrote; dropped when the remote shell has left."""
        client = self._clients.get(output.number)
        if client is not None:
            client.write(_line(out=output.text))


def _line(**message: str | int) -> bytes:
    return json.dumps(message).encode() + b"\n"


async def run_line(line: str, env: Mapping[str, str], folder: str, on_output: Callable[[str], None]) -> int:
    """Run a line of shell in a session of its own, without stdin; return its exit code.

    ``on_output`` gets what it writes (bytes as latin-1). The call returns with the line, not with what the line leaves running.
    """
    out, code = _start(["/bin/sh", "-c", _WRAPPER, "sh", line, folder], env)
    output = _Output(out, on_output)
    exit_code = await _read_all(code)
    output.read()
    return int(exit_code) if exit_code.strip().isdigit() else FAILED


def _start(argv: list[str], env: Mapping[str, str]) -> tuple[int, int]:
    """Start a program; return our ends of what it writes to 1 and 2, and of what it writes to 3."""
    out, out_end = os.pipe()
    code, code_end = os.pipe()
    actions: list[Any] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, out_end, 1),
        (os.POSIX_SPAWN_DUP2, out_end, 2),
        (os.POSIX_SPAWN_DUP2, code_end, 3),
    ]
    os.posix_spawn(argv[0], argv, dict(env), file_actions=actions, setsid=True, setsigmask=[])
    os.close(out_end)
    os.close(code_end)
    return out, code


class _Output:
    """The output of a line and of what it leaves running, read as long as any of them lives."""

    def __init__(self, pipe: int, on_output: Callable[[str], None]) -> None:
        self._pipe = pipe
        self._on_output = on_output
        os.set_blocking(pipe, False)
        asyncio.get_running_loop().add_reader(pipe, self.read)

    def read(self) -> None:
        """Read all that is there; close the pipe at its end."""
        while self._pipe >= 0:
            try:
                data = os.read(self._pipe, READ_SIZE)
            except BlockingIOError:
                return
            if data:
                self._on_output(data.decode("latin-1"))
            else:
                asyncio.get_running_loop().remove_reader(self._pipe)
                os.close(self._pipe)
                self._pipe = -1


async def _read_all(pipe: int) -> bytes:
    """Read a pipe to its end."""
    loop, ended = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
    data = bytearray()

    def read() -> None:
        piece = os.read(pipe, READ_SIZE)
        data.extend(piece)
        if not piece:
            loop.remove_reader(pipe)
            os.close(pipe)
            ended.set_result(None)

    loop.add_reader(pipe, read)
    await ended
    return bytes(data)
