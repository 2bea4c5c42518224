"""Downloads objects to files: verified by sha256, written beside the target and renamed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from muster.core.errors import StoreError
from muster.store.s3.bucket import Bucket
from muster.store.s3.upload import Content


def download_object(bucket: Bucket, key: str, target: Path, content: Content) -> None:
    """Write an object to ``target``, which appears only if the object has that content.

    :raises StoreError: the object has another content, or is not available.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name[:100]}.{os.getpid()}.part")
    try:
        seen = _copy(bucket.chunks(key), beside)
        if seen != content:
            raise StoreError(
                f"store {bucket.uri}: {key} has {seen.size} bytes with sha256 {seen.sha256}, "
                f"but {content.size} bytes with {content.sha256} were stored; it was changed since"
            )
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def _copy(chunks: Iterator[bytes], target: Path) -> Content:
    hasher, size = hashlib.sha256(), 0
    with target.open("wb") as file:
        for chunk in chunks:
            hasher.update(chunk)
            size += file.write(chunk)
    return Content(size=size, sha256=hasher.hexdigest())


def checked_path(path: str) -> str:
    """Return a relative path that stays below its folder.

    :raises StoreError: the path leads out of it.
    """
    pure = PurePosixPath(path)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts:
        raise StoreError(f"the store names a file {path!r}, which lies outside the folder that it belongs to")
    return path
