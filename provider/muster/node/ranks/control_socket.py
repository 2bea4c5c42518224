"""The control socket of an agent, below the node folder, at which shims and remote shells ask to be served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from muster.node.rpc import BadRequest, Commands, Request

MAX_REQUEST = 8 << 20  # bytes; a shim that a spawner started sends its environment

Handler = Callable[[socket.socket, Any], Awaitable[None]]


class ControlSocket:
    """Listens, and hands every connection to the handler of its first line: ``handlers[kind](connection, request)``.

    A handler refuses a request with a ValueError or KeyError, whose text goes back to the client.
    """

    def __init__(self, path: Path, handlers: Mapping[type[Request[Any]], Handler]) -> None:
        self._path = path
        self._commands = Commands(handlers)
        self._server: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Listen, if not yet; through a descriptor, since a socket's path may have 107 bytes at most."""
        if self._server is not None:
            return
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        self._path.unlink(missing_ok=True)
        server.bind(f"/proc/self/fd/{directory}/{self._path.name}")
        os.close(directory)
        server.listen(256)
        server.setblocking(False)
        self._server = server
        asyncio.get_running_loop().add_reader(server.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._server is not None
        connection, _ = self._server.accept()
        connection.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            handler, request = self._commands.resolve(await _first_line(connection))
            await handler(connection, request)
        except OSError:
            pass  # the client has left
        except (BadRequest, ValueError, KeyError) as error:
            with contextlib.suppress(OSError):
                connection.send(json.dumps({"error": str(error)}).encode() + b"\n")
        finally:
            connection.close()

    def close(self) -> None:
        """Accept no connection any more."""
        if self._server is not None:
            asyncio.get_running_loop().remove_reader(self._server.fileno())
            self._server.close()
            self._server = None


async def _first_line(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        piece = await asyncio.get_running_loop().sock_recv(connection, 1 << 16)
        if not piece or len(data) > MAX_REQUEST:
            raise BadRequest("no whole line came")
        data += piece
    return data
