"""Checks permissions on a store, one by one, with an object of its own: list, get, put, conditional put, delete."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace

from muster.core import store_keys
from muster.core.errors import StoreError
from muster.core.finding import Finding
from muster.core.store_access import StoreAccess
from muster.store.s3.bucket import Bucket
from muster.store.s3.errors import PreconditionFailed, StoreUnavailable
from muster.store.s3.retry import call_within

LIMIT = 10.0  # seconds for all of it
_USE_ANOTHER = "use a store that keeps conditional writes, as newer releases of most servers do"


class _ConditionIgnored(StoreError):
    """A write was made though its condition did not hold."""


def check_permissions(uri: str, access: StoreAccess) -> tuple[Finding, ...]:
    """Try each operation that Muster needs; an unreachable store is the only finding."""
    bucket = Bucket(uri, lambda: access)
    late = f"store {uri}: {access.endpoint_url or 'AWS S3'} did not answer within {LIMIT:g} s; check endpoint_url"
    try:
        found = call_within(lambda: tuple(_findings(bucket)), LIMIT, late)
    except StoreError as error:
        return (Finding.refused("store", error),)
    same = len({(finding.text, finding.remedy) for finding in found}) == 1 and not found[0].fine
    return (replace(found[0], what="store"),) if same else found


def _findings(bucket: Bucket) -> Iterator[Finding]:
    """Yield a finding for each operation; reads come first, as some servers create a misspelt bucket at the first write."""
    key = f"{store_keys.PROBE}.{secrets.token_hex(4)}"
    reads: dict[str, Callable[[], object]] = {
        "list": lambda: next(bucket.keys(store_keys.INDEX), None),
        "get": lambda: bucket.get(key),
    }
    writes: dict[str, Callable[[], object]] = {
        "put": lambda: bucket.put(key, b"{}"),
        "conditional put": lambda: _conditions(bucket, key),
        "delete": lambda: bucket.delete(key),
    }
    read = [_try(f"store: {name}", bucket, work) for name, work in reads.items()]
    yield from read
    if any(finding.fine for finding in read):
        yield from (_try(f"store: {name}", bucket, work) for name, work in writes.items())


def _try(what: str, bucket: Bucket, work: Callable[[], object]) -> Finding:
    try:
        work()
    except StoreUnavailable:
        raise
    except StoreError as error:
        return Finding.refused(what, error)
    return Finding(what=what, fine=True, text=bucket.uri)


def _conditions(bucket: Bucket, key: str) -> None:
    """Check that a write whose condition does not hold is refused.

    :raises StoreError: it was made.
    """
    conditions: dict[str, Callable[[], str]] = {
        "If-None-Match": lambda: bucket.put(key, b"{}", if_absent=True),
        "If-Match": lambda: bucket.put(key, b"{}", if_match=f'"{"0" * 32}"'),
    }
    for name, write in conditions.items():
        try:
            write()
        except PreconditionFailed:
            continue
        raise _ConditionIgnored(f"store {bucket.uri}: it took a write whose condition ({name}) did not hold; {_USE_ANOTHER}")
