"""The door: the agent's socket below the node folder, at which shims and remote shells say who they are."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

MAX_HELLO = 8 << 20  # bytes; a shim that was started by others brings its environment along

Host = Callable[[socket.socket, Any], Awaitable[None]]


class ControlSocket:
    """Listens, and hands every visitor to its host by the first word: ``hosts[word](connection, what it says)``."""

    def __init__(self, path: Path, hosts: Mapping[str, Host]) -> None:
        self._path = path
        self._hosts = hosts
        self._server: socket.socket | None = None
        self._visits: set[asyncio.Task[None]] = set()

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
        task = asyncio.get_running_loop().create_task(self._receive(connection))
        self._visits.add(task)
        task.add_done_callback(self._visits.discard)

    async def _receive(self, connection: socket.socket) -> None:
        try:
            hello = await _first_line(connection)
            word = next(iter(hello), "")
            if word in self._hosts:
                await self._hosts[word](connection, hello[word])
        except (OSError, ValueError, KeyError):
            pass  # a visitor who left, or never was one of ours
        finally:
            connection.close()

    def close(self) -> None:
        """Let nobody in any more."""
        if self._server is not None:
            asyncio.get_running_loop().remove_reader(self._server.fileno())
            self._server.close()
            self._server = None


async def _first_line(connection: socket.socket) -> dict[str, Any]:
    data = b""
    while not data.endswith(b"\n"):
        piece = await asyncio.get_running_loop().sock_recv(connection, 1 << 16)
        if not piece or len(data) > MAX_HELLO:
            raise ValueError("no whole line came")
        data += piece
    hello = json.loads(data)
    if not isinstance(hello, dict):
        raise ValueError("not an object")
    return hello
