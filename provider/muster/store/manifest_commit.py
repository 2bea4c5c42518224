"""Commits a run: its manifest is written once, on condition that it isn't there."""

from __future__ import annotations

from muster.core.codec import from_data, to_data
from muster.core.manifest import Manifest
from muster.store.s3.bucket import Bucket
from muster.store.s3.errors import PreconditionFailed


def commit(bucket: Bucket, key: str, manifest: Manifest) -> None:
    """Write a manifest; the same one again is fine.

    :raises PreconditionFailed: another one is there.
    """
    try:
        bucket.put_json(key, to_data(manifest), if_absent=True)
    except PreconditionFailed:
        found = bucket.get_json(key)
        if found is None:
            raise
        there = from_data(Manifest, found[0]).digest()
        if there != manifest.digest():
            raise PreconditionFailed(
                f"{bucket.uri_of(key)} is already committed with {there}, not {manifest.digest()}; a commit is never replaced: "
                "clear the task, or run under another name, to train anew"
            ) from None
