"""Bucket: the few S3 operations that Muster needs on one bucket and prefix.

botocore's own client is used, as importing boto3 on top of it adds to every launch and nothing to these operations.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from muster.core.retry import Backoff, retry
from muster.core.store_access import StoreAccess
from muster.core.store_keys import split_uri
from muster.store.s3.error_mapping import StoreContext, store_error
from muster.store.s3.errors import NotFound, StoreUnavailable

T = TypeVar("T")
CONNECT_TIMEOUT = 3.0
READ_TIMEOUT = 30.0
CONNECTIONS = 24


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An object with its body."""

    body: bytes
    etag: str


class Bucket:
    """One bucket and prefix; keys are relative to the prefix. Safe to use from several threads.

    ``access()`` is called before each request, so that renewed credentials are used. ``tries``: how often a request is made
    while the store is unavailable.

    :raises StoreError: (all methods) one of the kinds in :mod:`muster.store.s3.errors`.
    """

    def __init__(self, uri: str, access: Callable[[], StoreAccess], *, tries: int = 1) -> None:
        self.uri = uri.rstrip("/")
        self.name, self._prefix = split_uri(uri)
        self._access = access
        self._tries = tries
        self._lock = threading.Lock()
        self._cached: tuple[StoreAccess, Any] | None = None

    def uri_of(self, key: str) -> str:
        """Return the full ``s3://`` address of a key."""
        return f"s3://{self.name}/{self._full(key)}"

    def get(self, key: str, start: int = 0) -> Stored | None:
        """Return an object, from byte ``start``; None if there is none."""
        span = {"Range": f"bytes={start}-"} if start else {}

        def work(client: Any) -> Stored:
            answer = client.get_object(**self.at(key), **span)
            return Stored(body=answer["Body"].read(), etag=answer["ETag"])

        return self._or_none(work)

    def get_json(self, key: str) -> tuple[dict[str, Any], str] | None:
        """Return a JSON document and its etag; None if there is none."""
        stored = self.get(key)
        return None if stored is None else (json.loads(stored.body), stored.etag)

    def chunks(self, key: str, size: int = 1 << 20) -> Iterator[bytes]:
        """Yield an object's body piece by piece.

        :raises NotFound: there is none.
        """
        body = self.do(lambda client: client.get_object(**self.at(key))["Body"])
        while chunk := self._once(lambda _: body.read(size)):
            yield chunk

    def sha256_of(self, key: str) -> str | None:
        """Return the sha256 that an object was stored with; None if there is no object, "" if it has none."""
        head = self._or_none(lambda client: client.head_object(**self.at(key)))
        return None if head is None else str(head["Metadata"].get("sha256", ""))

    def put(self, key: str, body: bytes, *, if_match: str = "", if_absent: bool = False, sha256: str = "") -> str:
        """Write an object and return its etag; with ``sha256`` (hex) the store checks the content and keeps the digest with it.

        :raises PreconditionFailed: the condition does not hold.
        """
        fields: dict[str, Any] = {}
        if if_match:
            fields["IfMatch"] = if_match
        if if_absent:
            fields["IfNoneMatch"] = "*"
        if sha256:
            fields["ChecksumSHA256"] = base64.b64encode(bytes.fromhex(sha256)).decode()
            fields["Metadata"] = {"sha256": sha256}
        return str(self.do(lambda client: client.put_object(**self.at(key), Body=body, **fields))["ETag"])

    def put_json(self, key: str, document: Any, *, if_match: str = "", if_absent: bool = False) -> str:
        """Write a JSON document and return its etag."""
        body = json.dumps(document, ensure_ascii=False, sort_keys=True).encode("utf-8", errors="replace")
        return self.put(key, body, if_match=if_match, if_absent=if_absent)

    def delete(self, key: str) -> None:
        """Delete an object, if there is one."""
        self.do(lambda client: client.delete_object(**self.at(key)))

    def keys(self, prefix: str, *, folders: bool = False) -> Iterator[str]:
        """Yield the keys below ``prefix`` in order; with ``folders`` the names (with a slash) one level below it."""
        fields = {"Delimiter": "/"} if folders else {}
        token: dict[str, str] = {}
        cut = len(self._full(""))
        while True:
            query = {"Bucket": self.name, "Prefix": self._full(prefix), **fields, **token}
            page = self.do(partial(_list, query))
            entries = page.get("CommonPrefixes" if folders else "Contents", ())
            yield from (entry["Prefix" if folders else "Key"][cut:] for entry in entries)
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def do(self, work: Callable[[Any], T]) -> T:
        """Call ``work`` with the botocore client; retry while the store is unavailable."""
        return retry(lambda: self._once(work), StoreUnavailable, Backoff(0.4, 0.4, jitter=(0.5, 1.5)), tries=self._tries)

    def _once(self, work: Callable[[Any], T]) -> T:
        try:
            return work(self._client())
        except (BotoCoreError, ClientError, OSError, ValueError) as error:
            raise store_error(error, StoreContext(uri=self.uri, bucket=self.name, access=self._access())) from None

    def at(self, key: str) -> dict[str, str]:
        """Return the fields that name an object in a request."""
        return {"Bucket": self.name, "Key": self._full(key)}

    def _or_none(self, work: Callable[[Any], T]) -> T | None:
        try:
            return self.do(work)
        except NotFound:
            return None

    def _full(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _client(self) -> Any:
        access = self._access()
        with self._lock:
            if self._cached is None or self._cached[0] != access:
                self._cached = (access, make_client(access))
            return self._cached[1]


def _list(query: dict[str, Any], client: Any) -> dict[str, Any]:
    page: dict[str, Any] = client.list_objects_v2(**query)
    return page


def make_client(access: StoreAccess) -> Any:
    """Return a botocore client.

    At an ``endpoint_url``, checksums that only newer servers know are left out; sha256 guards what is stored.
    """
    own: dict[str, Any] = {}
    if access.endpoint_url:
        own["s3"] = {"addressing_style": "path"}
        own["request_checksum_calculation"] = own["response_checksum_validation"] = "when_required"
    return botocore.session.Session().create_client(
        "s3",
        region_name=access.region or None,
        endpoint_url=access.endpoint_url or None,
        verify=access.verify or None,
        aws_access_key_id=access.access_key or None,
        aws_secret_access_key=access.secret_key or None,
        aws_session_token=access.session_token or None,
        config=Config(
            signature_version="s3v4",
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            max_pool_connections=CONNECTIONS,
            retries={"total_max_attempts": 1, "mode": "standard"},
            **own,
        ),
    )
