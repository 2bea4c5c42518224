"""Uploads files so that an object never has another content than the one announced."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muster.core.errors import StoreError
from muster.core.retry import Backoff, retry
from muster.store.s3.bucket import Bucket
from muster.store.s3.errors import FileChanged, StoreUnavailable

WHOLE_LIMIT = 8 << 20  # bytes; a larger file is stored in parts
PART_SIZE = 8 << 20
MOST_PARTS = 9_000  # S3 takes 10,000
PARTS_AT_ONCE = 4
PART_TRIES = 4
READ_SIZE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Shows without reading a file that it may have changed."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Signature:
        """Return the signature of a file, links followed."""
        stat = path.stat()
        return cls(size=stat.st_size, mtime_ns=stat.st_mtime_ns, inode=stat.st_ino)


@dataclass(frozen=True, kw_only=True)
class Content:
    """Content of a file: size in bytes and sha256 in hex."""

    size: int
    sha256: str


def content_of(path: Path, size: int) -> Content:
    """Hash the first ``size`` bytes of a file: of a file that grows, its content at the time of the scan.

    :raises FileChanged: the file is shorter.
    """
    hasher = hashlib.sha256()
    for chunk in _read(path, size, READ_SIZE):
        hasher.update(chunk)
    return Content(size=size, sha256=hasher.hexdigest())


class Uploader:
    """Uploads files; a large one in parts, several at once, but only one large file at a time, so memory stays bounded."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._large = threading.Lock()

    def put(self, key: str, path: Path, content: Content) -> None:
        """Upload a file.

        :raises FileChanged: the file no longer has that content; the object is what it was before.
        """
        if content.size > WHOLE_LIMIT:
            with self._large:
                self._put_parts(key, path, content)
            return
        body = b"".join(_read(path, content.size, READ_SIZE))
        if hashlib.sha256(body).hexdigest() != content.sha256:
            raise FileChanged(f"{path} is being changed")
        self._bucket.put(key, body, sha256=content.sha256)

    def _put_parts(self, key: str, path: Path, content: Content) -> None:
        at = self._bucket.at(key)
        begun = self._bucket.do(lambda client: client.create_multipart_upload(**at, Metadata={"sha256": content.sha256}))
        upload = {**at, "UploadId": begun["UploadId"]}
        try:
            parts = self._send_parts(upload, path, content)
            self._bucket.do(lambda client: client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}))
        except BaseException:
            self._abort(upload)
            raise

    def _send_parts(self, upload: dict[str, str], path: Path, content: Content) -> list[dict[str, Any]]:
        hasher = hashlib.sha256()
        sent: list[dict[str, Any]] = []
        pending: deque[Future[dict[str, Any]]] = deque()
        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            for number, data in enumerate(_read(path, content.size, max(PART_SIZE, -(-content.size // MOST_PARTS))), start=1):
                hasher.update(data)
                if len(pending) >= PARTS_AT_ONCE:
                    sent.append(pending.popleft().result())
                pending.append(pool.submit(self._send_part, upload, number, data))
            sent.extend(part.result() for part in pending)
        if hasher.hexdigest() != content.sha256:
            raise FileChanged(f"{path} is being changed")
        return sent

    def _send_part(self, upload: dict[str, str], number: int, data: bytes) -> dict[str, Any]:
        def send(client: Any) -> dict[str, Any]:
            answer = client.upload_part(**upload, PartNumber=number, Body=data)
            return {"PartNumber": number, "ETag": answer["ETag"]}

        return retry(lambda: self._bucket.do(send), StoreUnavailable, Backoff(0.5, 0.5), tries=PART_TRIES)

    def _abort(self, upload: dict[str, str]) -> None:
        try:
            self._bucket.do(lambda client: client.abort_multipart_upload(**upload))
        except StoreError:
            pass  # the store is unavailable; it deletes unfinished uploads by its own rule


def _read(path: Path, size: int, chunk: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        left = size
        while left:
            data = file.read(min(chunk, left))
            if not data:
                raise FileChanged(f"{path} became shorter")
            left -= len(data)
            yield data
