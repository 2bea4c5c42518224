"""Keeps the store's copy of a node's outputs, logs and rank logs up to date, each file under its own name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from muster.core.errors import StoreError
from muster.core.manifest import ManifestFile
from muster.core.paths import NodePaths
from muster.core.store_keys import RunKeys
from muster.node.sync_commands import OutputName
from muster.store.s3.bucket import Bucket
from muster.store.s3.errors import FileChanged, StoreUnavailable
from muster.store.s3.upload import Content, Signature, Uploader, content_of
from muster.store.sync.file_scan import Scan, ScannedFile, scan
from muster.store.sync.quiescence import QuiescenceTracker

QUIET = 1.0  # seconds without a change after which a file is stored
OVERDUE = 15.0  # seconds after which a file that is never quiet is stored as it is
RANKS_INTERVAL = 30.0
UPLOADS_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file as the store has it."""

    signature: Signature
    content: Content


class FolderMirror:
    """One node's ``outputs``, ``logs`` and ``ranks``; ``report(text)`` is called once with each problem."""

    def __init__(self, bucket: Bucket, keys: RunKeys, paths: NodePaths, report: Callable[[str], None]) -> None:
        self._bucket = bucket
        self._keys = keys
        self._paths = paths
        self._report = report
        self._reported: set[str] = set()
        self._uploader = Uploader(bucket)
        self._quiescence = QuiescenceTracker()
        self._stored: dict[str, StoredFile] = {}
        self._tried: dict[str, float] = {}
        self._present: tuple[str, ...] = ()
        self._ranks_at = time.monotonic()

    def sync(self, final: bool) -> None:
        """Store what is new or changed; with ``final`` also what is not quiet.

        :raises StoreError: a file could not be stored; all others were tried.
        """
        found = self._scan(final)
        self.report_left_out(found)
        self._quiescence.update(found.files)
        store_each([file for file in found.files if self._is_due(file, final)], self._store, final)
        if final:
            self._present = tuple(file.path for file in found.files)

    def files(self, node: int) -> list[ManifestFile]:
        """Return the files of the last final pass."""
        stored = ((path, self._stored[path].content) for path in self._present)
        return [
            ManifestFile(path=path, size=content.size, sha256=content.sha256, key=self._keys.file(path), node=node)
            for path, content in stored
        ]

    def store_object(self, name: OutputName) -> None:
        """Upload a local file to an object, unless the content is there.

        :raises StoreError: the file can't be read, or the store does not take it.
        """
        path, key = name.path, name.key
        file = self._file(path)
        try:
            content = content_of(file, file.stat().st_size)
            if self._bucket.sha256_of(key) != content.sha256:
                self._uploader.put(key, file, content)
        except OSError as error:
            raise StoreError(f"{path} can't be stored under {key}: {(error.strerror or str(error)).lower()}") from None

    def report_left_out(self, found: Scan) -> None:
        """Report each file that a scan left out, once."""
        for text in found.left_out:
            if text not in self._reported:
                self._reported.add(text)
                self._report(text)

    def _file(self, path: str) -> Path:
        return (self._paths.root if path.startswith("ranks/") else self._paths.work) / path

    def _scan(self, final: bool) -> Scan:
        found = scan(self._paths.outputs, "outputs") + scan(self._paths.logs, "logs")
        if final or time.monotonic() - self._ranks_at >= RANKS_INTERVAL:
            self._ranks_at = time.monotonic()
            ranks = scan(self._paths.ranks, "ranks")
            found += Scan(files=tuple(file for file in ranks.files if file.signature.size), left_out=ranks.left_out)
        return found

    def _is_due(self, file: ScannedFile, final: bool) -> bool:
        stored = self._stored.get(file.path)
        if stored is not None and stored.signature == file.signature:
            return False
        now = time.monotonic()
        overdue = now - self._tried.setdefault(file.path, now) >= OVERDUE
        due = final or overdue or file.path.startswith("ranks/") or self._quiescence.is_quiet(file, QUIET)
        if due:
            self._tried[file.path] = now
        return due

    def _store(self, file: ScannedFile) -> None:
        content = content_of(file.file, file.signature.size)
        stored = self._stored.get(file.path)
        if stored is None or stored.content != content:
            self._uploader.put(self._keys.file(file.path), file.file, content)
        self._stored[file.path] = StoredFile(signature=file.signature, content=content)
        if Signature.of(file.file) != file.signature:
            raise FileChanged(f"{file.path} is being changed")


def store_each(due: Iterable[ScannedFile], store: Callable[[ScannedFile], None], final: bool) -> None:
    """Store several files at once.

    A file that changes meanwhile is left to the next scan, unless the pass is ``final``.

    :raises StoreError: the first failure; once the store is unavailable, the rest is not tried.
    """
    errors: list[StoreError] = []

    def attempt(file: ScannedFile) -> None:
        if not any(isinstance(error, StoreUnavailable) for error in errors):
            errors.extend(_attempt(file, store))

    largest_first = sorted(due, key=lambda file: -file.signature.size)
    if largest_first:
        with ThreadPoolExecutor(min(UPLOADS_AT_ONCE, len(largest_first))) as pool:
            list(pool.map(attempt, largest_first))
    serious = [error for error in errors if final or not isinstance(error, FileChanged)]
    if serious:
        raise serious[0]


def _attempt(file: ScannedFile, store: Callable[[ScannedFile], None]) -> Iterator[StoreError]:
    try:
        store(file)
    except StoreError as error:
        yield error
    except FileNotFoundError:
        yield FileChanged(f"{file.path} has been removed meanwhile")
    except OSError as error:
        yield StoreError(f"{file.path} can't be read: {(error.strerror or str(error)).lower()}")
