"""Lease: at most one of several processes, wherever they are, holds it; kept by conditional writes in the store."""

from __future__ import annotations

import time
import uuid
from types import TracebackType
from typing import TYPE_CHECKING

from muster.core.errors import StoreError
from muster.core.retry import Backoff
from muster.store.s3.errors import NotFound, PreconditionFailed

if TYPE_CHECKING:
    from muster.store.s3.bucket import Bucket

DURATION = 15.0  # seconds without a change after which a holder counts as dead
LEASE_VERSION = 1


class Lease:
    """The lease in the object ``key``, held inside the ``with`` block.

    A holder that died keeps it for ``duration`` seconds, by the clock of the process that waits; so does a holder that is only
    slow, and then two hold it: work under a lease must bear that.
    """

    def __init__(self, bucket: Bucket, key: str, duration: float = DURATION) -> None:
        self._bucket = bucket
        self._key = key
        self._duration = duration
        self._etag = ""

    def __enter__(self) -> None:
        seen, since, backoff = "", time.monotonic(), Backoff(0.06, 0.06, jitter=(0.3, 1.7))
        while True:
            holder, etag = self._read()
            if etag != seen:
                seen, since = etag, time.monotonic()
            if not holder or time.monotonic() - since > self._duration:
                try:
                    self._etag = self._write(uuid.uuid4().hex, etag)
                    return
                except (PreconditionFailed, NotFound):
                    continue  # another process was first
            time.sleep(backoff.next())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._write("", self._etag)
        except StoreError:
            pass  # another process took it for dead, or the store is unavailable: then the lease expires

    def _read(self) -> tuple[str, str]:
        """Return the holder, "" if there is none, and the object's etag, "" if there is no object."""
        found = self._bucket.get_json(self._key)
        return (str(found[0]["holder"]), found[1]) if found else ("", "")

    def _write(self, holder: str, etag: str) -> str:
        document = {"version": LEASE_VERSION, "holder": holder}
        return self._bucket.put_json(self._key, document, if_match=etag, if_absent=not etag)
