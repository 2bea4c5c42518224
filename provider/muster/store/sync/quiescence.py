"""Tracks how long each file of a folder has been unchanged."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from muster.store.s3.upload import Signature
from muster.store.sync.file_scan import ScannedFile


@dataclass(frozen=True, kw_only=True)
class _History:
    signature: Signature
    first_seen: float
    changed: float  # when the signature was first seen


class QuiescenceTracker:
    """Times of the last change of a folder's files, by this machine's clock; on NFS, files' own times are another host's."""

    def __init__(self) -> None:
        self._files: dict[str, _History] = {}

    def update(self, files: Iterable[ScannedFile]) -> None:
        """Record the files of a scan; to be called after each."""
        now = time.monotonic()
        self._files = {file.path: self._next(file, now) for file in files}

    def is_quiet(self, file: ScannedFile, seconds: float) -> bool:
        """Return whether a scanned file has been unchanged for so long: seen so, or last modified before that."""
        seen = time.monotonic() - self._files[file.path].changed
        return max(seen, time.time() - file.signature.mtime_ns / 1e9) >= seconds

    def only_active_file(self, seconds: float) -> str:
        """Return the one file that changed within so many seconds, and existed before them; "" unless exactly one did."""
        since = time.monotonic() - seconds
        active = [(path, file.first_seen) for path, file in self._files.items() if file.changed > since]
        return active[0][0] if len(active) == 1 and active[0][1] <= since else ""

    def _next(self, file: ScannedFile, now: float) -> _History:
        known = self._files.get(file.path)
        if known is not None and known.signature == file.signature:
            return known
        return _History(signature=file.signature, first_seen=known.first_seen if known else now, changed=now)
