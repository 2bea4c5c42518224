"""RemoteExec: lines of shell that a spawner has run on other nodes; asked for at node 0's door, run by the node's own agent."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from muster.core.plan import host_name
from muster.node.mesh import PeerFailed, PeerLost

FAILED = 255  # the exit code of a line that could not be run at all
READ_SIZE = 1 << 16
# the inner shell runs the line, the outer one tells its exit code: what the line leaves running may keep the output open
_WRAPPER = 'cd "$2"; /bin/sh -c "$1" 3>&-; echo $? >&3'

Ask = Callable[..., Awaitable[Any]]


class RemoteExec:
    """The lines that node 0's spawner has under way. ``ask(node, do, **fields)`` reaches the agent of a node."""

    def __init__(self, nodes: int, ask: Ask) -> None:
        self._nodes = {host_name(node): node for node in range(nodes)}
        self._numbers = itertools.count(1)
        self._clients: dict[int, asyncio.StreamWriter] = {}
        self._ask = ask

    async def serve(self, connection: socket.socket, wish: dict[str, str]) -> None:
        """Have one line run where it is wished, its output and exit code sent back."""
        number = next(self._numbers)
        _, client = await asyncio.open_connection(sock=connection.dup())
        self._clients[number] = client
        answer = await self._run(number, wish)
        del self._clients[number]
        client.write(to_line(answer))
        await client.drain()
        client.close()

    async def _run(self, number: int, wish: dict[str, str]) -> dict[str, Any]:
        node = self._nodes.get(wish["host"])
        if node is None:
            known = f"{host_name(0)} to {host_name(len(self._nodes) - 1)}"
            return {"exit": FAILED, "error": f"no node of this job is called {wish['host']!r}; they are {known}"}
        try:
            return {"exit": await self._ask(node, "shell", number=number, line=wish["line"])}
        except PeerLost as error:
            return {"exit": FAILED, "error": f"node {node} was lost: {error}"}
        except PeerFailed as error:
            return {"exit": FAILED, "error": str(error)}

    def show(self, number: int, text: str) -> None:
        """Pass on what a line wrote; dropped when nobody listens any more."""
        client = self._clients.get(number)
        if client is not None:
            client.write(to_line({"out": text}))


def to_line(message: dict[str, Any]) -> bytes:
    """Give the JSON line of a message."""
    return json.dumps(message).encode() + b"\n"


async def run_line(line: str, env: Mapping[str, str], folder: str, tell: Callable[[str], None]) -> int:
    """Run a line of shell here; ``tell`` gets what it writes (bytes as latin-1). Ends with the line, not with what it leaves.

    Its own exit code; the line gets a session of its own, nothing on stdin.
    """
    out, code = _start(["/bin/sh", "-c", _WRAPPER, "sh", line, folder], env)
    output = _Output(out, tell)
    said = await _all_of(code)
    output.read()
    return int(said) if said.strip().isdigit() else FAILED


def _start(argv: list[str], env: Mapping[str, str]) -> tuple[int, int]:
    """Start a program; gives our ends of what it writes to 1 and 2, and of what it writes to 3."""
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
    """What a line writes, and what it leaves running, as long as that may be."""

    def __init__(self, pipe: int, tell: Callable[[str], None]) -> None:
        self._pipe = pipe
        self._tell = tell
        os.set_blocking(pipe, False)
        asyncio.get_running_loop().add_reader(pipe, self.read)

    def read(self) -> None:
        """Pass on all that is there; at the end let go of the pipe."""
        while self._pipe >= 0:
            try:
                data = os.read(self._pipe, READ_SIZE)
            except BlockingIOError:
                return
            if data:
                self._tell(data.decode("latin-1"))
            else:
                asyncio.get_running_loop().remove_reader(self._pipe)
                os.close(self._pipe)
                self._pipe = -1


async def _all_of(pipe: int) -> bytes:
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
