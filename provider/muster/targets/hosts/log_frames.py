"""Frames: what a host's hub says over the connection, one by one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from muster.targets.hosts.shell import Stream

SILENCE = 20.0  # seconds without a word of the hub, not even a beat, after which the connection counts as lost
READ = 1 << 18


class FrameReader:
    """The frames that a hub says, in order."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next(self) -> tuple[dict[str, Any], bytes] | None:
        """Give a frame's head and bytes; None when the hub has ended.

        :raises TimeoutError: nothing was said for too long, not even a beat.
        """
        while (end := self._buffer.find(b"\n")) < 0:
            if not await self._more():
                return None
        head: dict[str, Any] = json.loads(self._buffer[:end])
        size = int(head.get("bytes", 0))
        while len(self._buffer) < end + 1 + size:
            if not await self._more():
                return None
        data = bytes(self._buffer[end + 1 : end + 1 + size])
        del self._buffer[: end + 1 + size]
        return head, data

    async def _more(self) -> bool:
        data = await asyncio.wait_for(self._stream.read(READ), SILENCE)
        self._buffer += data
        return bool(data)
