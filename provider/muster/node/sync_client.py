"""SyncClient: the agent's end of the sync process, which alone speaks with the store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

SYNC_GONE = "the sync process has ended; see agent.log in the node's folder"
NICENESS = 10  # of the sync process while ranks run: its import of botocore alone would take a tenth from them for a while


class SyncClient:
    """Starts the sync process on the first request, or when told to, and carries requests to it one by one.

    ``on_note(text)`` is called when the store goes away or comes back.
    """

    def __init__(self, python: str, folder: Path, on_note: Callable[[str], None], on_start: Callable[[int], None]) -> None:
        self._python = python
        self._folder = folder
        self._on_note = on_note
        self._on_start = on_start
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None
        self._reading: asyncio.Task[None] | None = None
        self._replies: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._socket: socket.socket | None = None
        self._connecting: asyncio.Task[None] | None = None
        self.pid = 0

    def start(self) -> None:
        """Start the process; it imports boto3 from now on, while the agents meet."""
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
        """Start the process unless it is there, and let it have only the processor time that the ranks leave."""
        self.start()
        with contextlib.suppress(OSError):  # it has died, which the next request tells
            os.setpriority(os.PRIO_PGRP, self.pid, NICENESS)  # the group is all its threads; it leads a session of its own

    async def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its reply, which has at least ``ok``; a dead process answers ``ok: False``."""
        await self._connect()
        assert self._writer is not None
        assert self._reading is not None
        if self._reading.done():
            return {"ok": False, "error": SYNC_GONE}
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[do] = reply
        self._writer.write(json.dumps({"do": do, **fields}).encode() + b"\n")
        return await reply

    async def tell(self, do: str, **fields: Any) -> None:
        """Send a request that has no reply."""
        await self._connect()
        assert self._writer is not None
        assert self._reading is not None
        if not self._reading.done():
            self._writer.write(json.dumps({"do": do, **fields}).encode() + b"\n")

    async def _connect(self) -> None:
        """Open our end once; shielded, since a request that is given up halfway would take the socket with it."""
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
                self._take(json.loads(line))
        except (OSError, ValueError):
            pass
        for reply in self._replies.values():
            if not reply.done():
                reply.set_result({"ok": False, "error": SYNC_GONE})

    def _take(self, message: dict[str, Any]) -> None:
        if "note" in message:
            self._on_note(message["note"])
        elif "re" in message and (reply := self._replies.pop(message["re"], None)) is not None and not reply.done():
            reply.set_result(message)
