"""Reads the output of a process in a container, in an engine's frames, over a socket or, for ssh:// engines, a channel."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Any

HEADER = struct.Struct(">BxxxL")  # of a frame: which output, how many bytes
KEEP_ALIVE = {  # an engine's machine that has vanished is noticed in less than a minute
    socket.TCP_KEEPIDLE: 10,  # seconds
    socket.TCP_KEEPINTVL: 10,  # seconds
    socket.TCP_KEEPCNT: 3,
}


class ExecStream:
    """``opened`` is what the SDK gives for a process: a file over a socket, a TLS socket, or a channel of paramiko's."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened
        self._end = getattr(opened, "_sock", opened)
        self._end.settimeout(None)
        _keep_alive(self._end)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Yield output (1 or 2) and data of each frame, until the process or the connection ends."""
        while header := self._exactly(HEADER.size):
            output, size = HEADER.unpack(header)
            yield output, self._exactly(size)

    def end(self) -> None:
        """End the stream for whoever reads it, from another thread."""
        with contextlib.suppress(OSError, EOFError):
            if isinstance(self._end, socket.socket):
                self._end.shutdown(socket.SHUT_RDWR)
            else:  # the shutdown of a channel wakes nobody
                self._end.close()

    def close(self) -> None:
        """Close the connection."""
        self._opened.close()
        self._end.close()

    def _exactly(self, size: int) -> bytes:
        """Receive exactly so many bytes; fewer only at the end of the stream, of which half a frame is nothing."""
        parts = []
        while size > 0:
            part = self._end.recv(min(size, 1 << 20))
            if not part:
                return b""
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _keep_alive(end: Any) -> None:
    """Enable TCP keep-alive on the connection; that of a channel is its transport's."""
    below = end if isinstance(end, socket.socket) else end.get_transport().sock
    if isinstance(below, socket.socket) and below.family in (socket.AF_INET, socket.AF_INET6):
        below.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEP_ALIVE.items():
            below.setsockopt(socket.IPPROTO_TCP, option, value)
