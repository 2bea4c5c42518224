"""File watch: sleeps until a file grows, woken by the kernel (inotify), else by polling."""

from __future__ import annotations

import ctypes
import os
import select
from collections.abc import Sequence
from pathlib import Path

from muster.core.retry import Backoff

MODIFY = 0x2  # of <sys/inotify.h>
POLL_FASTEST, POLL_SLOWEST = 0.01, 0.15  # seconds between two polls where the kernel reports nothing


class FileWatch:
    """Watches one file. A network file system reports no writes of other machines: there the watch is late by the limit."""

    def __init__(self, file: Path) -> None:
        self._fd = _watched(file)
        self._backoff = Backoff(POLL_FASTEST, POLL_SLOWEST, factor=1.3)

    def wait(self, others: Sequence[int], limit: float) -> list[int]:
        """Sleep until the file may have grown, one of ``others`` is readable or ``limit`` seconds are over.

        Return those of the others that are readable.
        """
        if self._fd < 0:
            limit = min(limit, self._backoff.next())
        ready, _, _ = select.select([*others, *([self._fd] if self._fd >= 0 else [])], [], [], limit)
        if self._fd in ready:
            os.read(self._fd, 1 << 16)
        return [fd for fd in ready if fd != self._fd]

    def reset(self) -> None:
        """Poll fast again, as the file has grown."""
        self._backoff.reset()


def _watched(file: Path) -> int:
    """Return a descriptor that is readable once the file has grown; -1 where the kernel has none."""
    try:
        libc = ctypes.CDLL(None)
        fd = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        if fd >= 0 and libc.inotify_add_watch(fd, os.fsencode(file), ctypes.c_uint32(MODIFY)) < 0:
            os.close(fd)
            return -1
    except (OSError, AttributeError):
        return -1
    return fd
