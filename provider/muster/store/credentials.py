"""Credentials of the store: the file that a node reads them from, and the warning about those that expire."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timezone
from pathlib import Path

from muster.core.codec import from_data
from muster.core.store_access import StoreAccess


class AccessFile:
    """Returns the access in a node's 0600 file, read again when the file was renewed; during a write, the access before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._access = StoreAccess()

    def __call__(self) -> StoreAccess:
        with self._lock:
            try:
                stat = self._path.stat()
                stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
                if stamp != self._stamp:
                    self._access = from_data(StoreAccess, json.loads(self._path.read_text(encoding="utf-8")))
                    self._stamp = stamp
            except (OSError, ValueError):
                if self._stamp is None:
                    raise
            return self._access


def expiry_warning(access: StoreAccess, job_id: str, ends: datetime | None = None) -> str:
    """Return what happens to a run when these credentials expire, and what to do; empty for lasting ones.

    ``ends`` is the time when they do, None if it is unknown.
    """
    if not access.session_token:
        return ""
    when = f"end at {ends.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC" if ends else "end in a while, often after an hour"
    return (
        f"the store's credentials are temporary (they have a session token) and {when}; the run's nodes get no new ones. "
        "Checkpoints, logs and outputs can't be stored after that: a run that still trains then goes on, waits for the store "
        f"at its end, and ends with the cause store; a retry of the task, or `muster commit {job_id}`, stores its outputs with "
        "fresh credentials. For longer runs give keys that last, or none, so that the nodes use their own role"
    )
