"""Rest: since when the files of a folder are as they are, and which one alone does not rest."""

from __future__ import annotations

import time
from collections.abc import Iterable

from muster.store.s3.upload import Signature
from muster.store.sync.file_scan import Found


class Rest:
    """What was seen of a folder, by our own clock: times of files say nothing of when they were put in place."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Signature, float, float]] = {}  # when first seen, and when first seen like this

    def look(self, files: Iterable[Found]) -> None:
        """Take what a scan found; to be called at each."""
        now = time.monotonic()
        self._known = {found.path: self._judge(found, now) for found in files}

    def restless_alone(self, seconds: float) -> str:
        """Give the path of the one file that was changed within so many seconds, and was there before; "" if it isn't so."""
        since = time.monotonic() - seconds
        restless = [(path, first) for path, (_, first, changed) in self._known.items() if changed > since]
        return restless[0][0] if len(restless) == 1 and restless[0][1] <= since else ""

    def _judge(self, found: Found, now: float) -> tuple[Signature, float, float]:
        signature, first, changed = self._known.get(found.path, (found.signature, now, now))
        return found.signature, first, changed if signature == found.signature else now
