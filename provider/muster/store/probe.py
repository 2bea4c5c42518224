"""Probes a store with a read and a write, and writes what every run stores first: its code and its newest generation."""

from __future__ import annotations

from pathlib import Path

from muster.core import store_keys
from muster.core.retry import retry
from muster.store.s3.bucket import Bucket
from muster.store.s3.errors import PreconditionFailed, StoreUnavailable
from muster.store.s3.retry import store_backoff
from muster.store.s3.upload import Uploader, content_of

GENERATION_TRIES = 20


def probe(bucket: Bucket, timeout: float) -> None:
    """Read and write a small object; retry for ``timeout`` seconds while the store is unreachable.

    :raises StoreError: the store can't be used.
    """
    retry(lambda: _probe_once(bucket), StoreUnavailable, store_backoff(), timeout=timeout)


def _probe_once(bucket: Bucket) -> None:
    """Read, then write: some servers create a misspelt bucket at the first write."""
    bucket.get(store_keys.PROBE)
    bucket.put_json(store_keys.PROBE, {"version": store_keys.LAYOUT_VERSION})


def put_snapshot(bucket: Bucket, digest: str, archive: Path) -> None:
    """Store packed code under its digest, unless the store has it."""
    key = store_keys.snapshot(digest)
    if bucket.sha256_of(key) is None:
        Uploader(bucket).put(key, archive, content_of(archive, archive.stat().st_size))


def raise_generation(bucket: Bucket, job_id: str, generation: int) -> None:
    """Record this generation as the run's newest, unless a newer one exists; always writes, as a check that writing works.

    :raises StoreError: the store does not take it.
    """
    key = store_keys.latest_generation(job_id)
    for _ in range(GENERATION_TRIES):
        found = bucket.get_json(key)
        newest = max(generation, int(found[0]["generation"])) if found else generation
        document = {"version": store_keys.LAYOUT_VERSION, "run": job_id, "generation": newest}
        try:
            bucket.put_json(key, document, if_match=found[1] if found else "", if_absent=found is None)
            return
        except PreconditionFailed:
            continue
    raise PreconditionFailed(
        f"store {bucket.uri}: {key} is being changed all the time by others; is the run started many times at once?"
    )
