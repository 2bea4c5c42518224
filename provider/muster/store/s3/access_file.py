"""AccessFile: endpoint and credentials from a node's 0600 file, read anew when it was renewed."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from muster.core.codec import from_data
from muster.core.store_access import StoreAccess


class AccessFile:
    """Gives the access that the file holds now; while it is being written anew, the one before."""

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
