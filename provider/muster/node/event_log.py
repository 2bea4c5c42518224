"""The node's append-only log of events, written in whole lines, with room reserved on the disk for a run's last events."""

from __future__ import annotations

import ctypes
import errno
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from muster.core.event import Event, last_end

RESERVE = 1 << 20  # bytes of disk reserved beyond the log's end, which nobody else can fill
TAIL_READ = 1 << 20  # bytes from the end of a log in which the END event is looked for
KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE: blocks are taken, readers see no longer file
FULL = (errno.ENOSPC, errno.EDQUOT)


class EventLog:
    """Appends events of one node to its file; one write per batch, so a reader meets half a line at the very end at most.

    ``on_full`` is called once, with the system's words, when the disk has no room: what is left of the reserve is for the end.
    """

    def __init__(self, path: Path, node: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._node = node
        self._size = os.fstat(self._fd).st_size
        self._is_whole = os.pread(self._fd, 1, max(0, self._size - 1)) in (b"", b"\n")  # else a line was cut off
        self._reserved: float = 0
        self._full = False
        self.on_full: Callable[[str], None] = lambda words: None

    def add(self, kind: str, **data: Any) -> None:
        """Append one event that happened now."""
        self.add_all([(kind, data)])

    def add_all(self, events: list[tuple[str, dict[str, Any]]]) -> None:
        """Append events that happened now, in order; on a full disk what the reserve doesn't hold is dropped.

        A line that was cut off there is ended before the next one, so that readers see it is broken and lose no other.
        """
        now = time.time()
        text = "".join(Event(time=now, kind=kind, node=self._node, data=data).to_line() for kind, data in events)
        data = text.encode("utf-8", errors="surrogatepass" if text.isascii() else "replace")
        try:
            self._append(data if self._is_whole or not data else b"\n" + data)
        except OSError as error:
            self.report_full(error)
        if self._reserved - self._size < RESERVE / 2:
            self._reserve()

    def _append(self, data: bytes) -> None:
        while data:
            written = os.write(self._fd, data)
            self._is_whole = data[written - 1] == ord("\n")
            data, self._size = data[written:], self._size + written

    def report_full(self, error: OSError) -> None:
        """Report once that the node's disk has no room; raise any other error again."""
        if error.errno not in FULL:
            raise error
        if not self._full:
            self._full = True
            self.on_full(os.strerror(error.errno or errno.ENOSPC))

    def _reserve(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.fallocate(self._fd, KEEP_SIZE, ctypes.c_longlong(self._size), ctypes.c_longlong(RESERVE)) == 0:
            self._reserved = self._size + RESERVE
            return
        self._reserved = math.inf  # not tried again: there is no room, or the file system can't
        number = ctypes.get_errno()
        if number in FULL:
            self.report_full(OSError(number, os.strerror(number)))


def read_end(path: Path) -> Event | None:
    """Return the last END event near the end of a log, None if there is none; a line that was cut off is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_READ))
            return last_end(file.read())
    except OSError:
        return None
