"""Keeps the store's copy of a node's outputs, logs and rank logs up to date, each file under its own name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muster.core.errors import StoreError
from muster.core.paths import NodePaths
from muster.core.store_keys import RunKeys
from muster.store.s3.bucket import Bucket
from muster.store.s3.errors import FileChanged, StoreUnavailable
from muster.store.s3.upload import Content, Signature, Uploader, content_of
from muster.store.sync.file_scan import Found, Scan, scan

QUIET = 1.0  # seconds without a change after which a file is stored
OVERDUE = 15.0  # seconds after which a file that is never quiet is stored as it is
RANKS_INTERVAL = 30.0
UPLOADS_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A file as the store has it."""

    signature: Signature
    content: Content


class Quietness:
    """Tells which files have not been changed for a moment; a clock of another host (NFS) does no harm."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Signature, float]] = {}

    def holds(self, found: Found) -> bool:
        """Say whether a file is quiet; to be asked at each scan."""
        now = time.monotonic()
        signature, since = self._seen.get(found.path, (None, now))
        if signature != found.signature:
            self._seen[found.path] = (found.signature, now)
            since = now
        age = time.time() - found.signature.mtime_ns / 1e9
        return now - since >= QUIET or age >= QUIET


class FolderSync:
    """One node's ``outputs``, ``logs`` and ``ranks``. ``tell`` is given what a person should know, each text once."""

    def __init__(self, bucket: Bucket, keys: RunKeys, paths: NodePaths, tell: Callable[[str], None]) -> None:
        self._bucket = bucket
        self._keys = keys
        self._paths = paths
        self._tell = tell
        self._told: set[str] = set()
        self._uploader = Uploader(bucket)
        self._quiet = Quietness()
        self._kept: dict[str, Kept] = {}
        self._tried: dict[str, float] = {}
        self._present: tuple[str, ...] = ()
        self._ranks_at = time.monotonic()

    def sync(self, final: bool) -> None:
        """Store what is new or changed; with ``final`` also what is not quiet.

        :raises StoreError: something could not be stored; all the rest was tried.
        """
        seen = self._scan(final)
        self.report(seen)
        due = [found for found in seen.files if self._is_due(found, final)]
        keep_each(due, self._keep, final)
        if final:
            self._present = tuple(found.path for found in seen.files)

    def files(self, node: int) -> list[dict[str, Any]]:
        """Give what the last final pass found, as the agent wants it."""
        kept = ((path, self._kept[path].content) for path in self._present)
        return [entry(path, content, self._keys.file(path), node) for path, content in kept]

    def place(self, path: str, key: str) -> None:
        """Make sure that the object ``key`` has the content of the local file ``path``.

        :raises StoreError: it could not be done.
        """
        file = self._file(path)
        try:
            content = content_of(file, file.stat().st_size)
            if self._bucket.sha256_of(key) != content.sha256:
                self._uploader.put(key, file, content)
        except OSError as error:
            raise StoreError(f"{path} can't be stored under {key}: {(error.strerror or str(error)).lower()}") from None

    def report(self, seen: Scan) -> None:
        """Tell what a scan left out, once."""
        for text in seen.left_out:
            if text not in self._told:
                self._told.add(text)
                self._tell(text)

    def _file(self, path: str) -> Path:
        return (self._paths.root if path.startswith("ranks/") else self._paths.work) / path

    def _scan(self, final: bool) -> Scan:
        seen = scan(self._paths.outputs, "outputs") + scan(self._paths.logs, "logs")
        if final or time.monotonic() - self._ranks_at >= RANKS_INTERVAL:
            self._ranks_at = time.monotonic()
            ranks = scan(self._paths.ranks, "ranks")
            seen += Scan(files=tuple(f for f in ranks.files if f.signature.size), left_out=ranks.left_out)
        return seen

    def _is_due(self, found: Found, final: bool) -> bool:
        kept = self._kept.get(found.path)
        quiet = self._quiet.holds(found)
        if kept is not None and kept.signature == found.signature:
            return False
        now = time.monotonic()
        overdue = now - self._tried.setdefault(found.path, now) >= OVERDUE
        due = final or quiet or overdue or found.path.startswith("ranks/")
        if due:
            self._tried[found.path] = now
        return due

    def _keep(self, found: Found) -> None:
        content = content_of(found.file, found.signature.size)
        kept = self._kept.get(found.path)
        if kept is None or kept.content != content:
            self._uploader.put(self._keys.file(found.path), found.file, content)
        self._kept[found.path] = Kept(signature=found.signature, content=content)
        if Signature.of(found.file) != found.signature:
            raise FileChanged(f"{found.path} is being changed")


def entry(path: str, content: Content, key: str, node: int) -> dict[str, Any]:
    """Give a stored file as plain data."""
    return {"path": path, "size": content.size, "sha256": content.sha256, "key": key, "node": node}


def keep_each(due: Iterable[Found], keep: Callable[[Found], None], final: bool) -> None:
    """Store several files at once.

    A file that changes meanwhile is left to the next scan, unless the pass is ``final``.

    :raises StoreError: the first that failed; once the store is away, the rest is not tried.
    """
    errors: list[StoreError] = []

    def attempt(found: Found) -> None:
        if not any(isinstance(error, StoreUnavailable) for error in errors):
            errors.extend(_attempt(found, keep))

    wanted = sorted(due, key=lambda found: -found.signature.size)
    if wanted:
        with ThreadPoolExecutor(min(UPLOADS_AT_ONCE, len(wanted))) as pool:
            list(pool.map(attempt, wanted))
    serious = [error for error in errors if final or not isinstance(error, FileChanged)]
    if serious:
        raise serious[0]


def _attempt(found: Found, keep: Callable[[Found], None]) -> Iterator[StoreError]:
    try:
        keep(found)
    except StoreError as error:
        yield error
    except FileNotFoundError:
        yield FileChanged(f"{found.path} has been removed meanwhile")
    except OSError as error:
        yield StoreError(f"{found.path} can't be read: {(error.strerror or str(error)).lower()}")
