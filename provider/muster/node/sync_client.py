"""SyncClient: the agent's end of the sync process, which alone speaks with the store."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from muster.node.rpc import CommandFailed, Reply, Request

A = TypeVar("A")
SYNC_GONE = "the sync process has ended; see agent.log in the node's folder"
NICENESS = 10  # of the sync process while ranks run: its import of botocore alone would take a tenth from them for a while


class SyncClient:
    """Starts the sync process on the first request or by ``start()``, and sends requests to it.

    ``on_note(text)`` is called when the store becomes unreachable or reachable again, ``on_start(pid)`` with the new process.
    """

    def __init__(self, python: str, folder: Path, on_message: Callable[[str], None], on_start: Callable[[int], None]) -> None:
        self._python = python
        self._folder = folder
        self._on_message = on_message
        self._on_start = on_start
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None
        self._reading: asyncio.Task[None] | None = None
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._numbers = itertools.count()
        self._socket: socket.socket | None = None
        self._connecting: asyncio.Task[None] | None = None
        self.pid = 0

    def start(self) -> None:
        """Start the process; it imports botocore while the agents meet."""
        if self.pid:
            return
        ours, theirs = socket.socketpair()
        theirs.set_inheritable(True)
        entry = str(Path(__file__).with_name("start.py"))
        argv = [self._python, "-I", entry, "sync", str(self._folder), "--fd", str(theirs.fileno())]
        self.pid = os.posix_spawn(self._python, argv, os.environ, setsigmask=[], setsid=True)
        theirs.close()
        self._socket = ours
        self._on_start(self.pid)

    def start_behind_ranks(self) -> None:
        """Start the process unless it is there, and give it only the processor time that the ranks leave."""
        self.start()
        with contextlib.suppress(OSError):  # it has died, which the next request reports
            os.setpriority(os.PRIO_PGRP, self.pid, NICENESS)  # the group is all its threads; it leads a session of its own

    async def call(self, request: Request[A]) -> A:
        """Send a request and return its answer.

        :raises CommandFailed: the store did not do it, or the sync process has ended.
        """
        await self._connect()
        number = next(self._numbers)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        if not self._send({"id": number, **request.encode()}):
            raise CommandFailed(SYNC_GONE)
        return request.decode_reply(await reply)

    async def notify(self, request: Request[None]) -> None:
        """Send a request that has no reply; it is dropped if the process has ended."""
        await self._connect()
        self._send(request.encode())

    def _send(self, message: dict[str, Any]) -> bool:
        """Write a message; return whether there is a process to read it."""
        assert self._writer is not None
        assert self._reading is not None
        if self._reading.done():
            return False
        self._writer.write(json.dumps(message).encode() + b"\n")
        return True

    async def _connect(self) -> None:
        """Open our end once; shielded, since a cancelled request would close the socket."""
        self.start()
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._open())
        await asyncio.shield(self._connecting)

    async def _open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket, limit=64 << 20)
        self._reading = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        assert self._reader is not None
        try:
            while line := await self._reader.readline():
                self._receive(json.loads(line))
        except (OSError, ValueError):
            pass
        for reply in self._replies.values():
            if not reply.done():
                reply.set_result({"error": SYNC_GONE})

    def _receive(self, message: dict[str, Any]) -> None:
        if "note" in message:
            self._on_message(message["note"])
        elif (reply := self._replies.pop(message["id"], None)) is not None and not reply.done():
            reply.set_result(message)
