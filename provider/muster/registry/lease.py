"""A turn: of several processes, wherever they are, one at a time does something; kept by conditional writes in the store."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from muster.core.errors import StoreError
from muster.store.s3.errors import NotFound, PreconditionFailed

if TYPE_CHECKING:
    from muster.store.s3.bucket import Bucket

LEASE = 15.0  # seconds without a change after which a holder counts as dead
TURN_VERSION = 1


@contextmanager
def turn(bucket: Bucket, key: str, lease: float = LEASE) -> Iterator[None]:
    """Have the turn that the object ``key`` stands for inside the block.

    A holder that died keeps it for ``lease`` seconds, as seen by the clock of whoever waits; so does one that is only slow, and
    then two have it: what is done in a turn must bear that.
    """
    etag = _take(bucket, key, lease)
    try:
        yield
    finally:
        _give_back(bucket, key, etag)


def _take(bucket: Bucket, key: str, lease: float) -> str:
    seen, since = "", time.monotonic()
    while True:
        holder, etag = _holder(bucket, key)
        if etag != seen:
            seen, since = etag, time.monotonic()
        if not holder or time.monotonic() - since > lease:
            try:
                return bucket.put_json(key, _document(uuid.uuid4().hex), if_match=etag, if_absent=not etag)
            except (PreconditionFailed, NotFound):
                continue  # someone else was first
        time.sleep(random.uniform(0.02, 0.1))


def _holder(bucket: Bucket, key: str) -> tuple[str, str]:
    """Give who has it, "" if nobody, and the object's etag, "" if there is none."""
    found = bucket.get_json(key)
    return (str(found[0]["holder"]), found[1]) if found else ("", "")


def _give_back(bucket: Bucket, key: str, etag: str) -> None:
    try:
        bucket.put_json(key, _document(""), if_match=etag)
    except StoreError:
        pass  # it was taken from a holder that seemed dead, or the store is away: it ends by itself


def _document(holder: str) -> dict[str, object]:
    return {"version": TURN_VERSION, "holder": holder}
