"""Finds out whether a store can be used, and what every run writes first: its code and its newest generation."""

from __future__ import annotations

from pathlib import Path

from muster.core import layout
from muster.store.client import Bucket
from muster.store.errors import Conflict
from muster.store.upload import Uploader, content_of

GENERATION_TRIES = 20


def probe(bucket: Bucket) -> None:
    """Read and write a small object. Reading comes first, as some servers create a bucket that is written to.

    :raises StoreError: it could not be done.
    """
    bucket.get(layout.PROBE)
    bucket.put_json(layout.PROBE, {"version": layout.LAYOUT_VERSION})


def put_snapshot(bucket: Bucket, digest: str, archive: Path) -> None:
    """Store packed code under its digest, unless it is there."""
    key = layout.snapshot(digest)
    if bucket.sha256_of(key) is None:
        Uploader(bucket).put(key, archive, content_of(archive, archive.stat().st_size))


def raise_generation(bucket: Bucket, job_id: str, generation: int) -> None:
    """Make this generation the run's newest, unless a newer one is; always writes, so it shows that writing works.

    :raises StoreError: it could not be done.
    """
    key = layout.latest_generation(job_id)
    for _ in range(GENERATION_TRIES):
        found = bucket.get_json(key)
        newest = max(generation, int(found[0]["generation"])) if found else generation
        document = {"version": layout.LAYOUT_VERSION, "run": job_id, "generation": newest}
        try:
            bucket.put_json(key, document, if_match=found[1] if found else "", if_absent=found is None)
            return
        except Conflict:
            continue
    raise Conflict(f"store {bucket.uri}: {key} is being changed all the time by others; is the run started many times at once?")
