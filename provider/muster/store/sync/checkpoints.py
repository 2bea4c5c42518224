"""Stores whole sets of checkpoint files: blobs by content, then one marker that names a set that existed at one moment.

A set is pinned by hard links, scanned again after a second of quiescence, and stored as it was pinned, whatever replaces its
files meanwhile.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from muster.core.codec import from_data, to_data
from muster.core.errors import StoreError
from muster.core.manifest import ManifestFile
from muster.core.paths import NodePaths
from muster.core.store_keys import LAYOUT_VERSION, RunKeys, latest_generation
from muster.store.s3.bucket import Bucket
from muster.store.s3.download import checked_path, download_object
from muster.store.s3.errors import FileChanged
from muster.store.s3.upload import Content, Signature, Uploader, content_of
from muster.store.sync.file_scan import Scan, ScannedFile, scan
from muster.store.sync.mirror import OVERDUE, QUIET, store_each
from muster.store.sync.quiescence import QuiescenceTracker

DOWNLOADS_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """A file of a committed set; ``mtime`` in seconds since the epoch."""

    path: str
    size: int
    sha256: str
    key: str
    node: int
    mtime: float


@dataclass(frozen=True, kw_only=True)
class CheckpointMarker:
    """A node's committed set, and the keys of the set before, whose blobs a reader may still want. ``at`` as ``mtime``."""

    node: int = 0
    attempt: int = 0
    at: float = 0.0
    files: tuple[CheckpointFile, ...] = ()
    previous: tuple[str, ...] = ()
    version: int = LAYOUT_VERSION


class CheckpointSync:
    """One node's ``checkpoints``; ``report(scan)`` is called with each scan."""

    def __init__(
        self, bucket: Bucket, keys: RunKeys, paths: NodePaths, *, node: int, attempt: int, report: Callable[[Scan], None]
    ) -> None:
        self._bucket = bucket
        self._keys = keys
        self._paths = paths
        self._node = node
        self._attempt = attempt
        self._report = report
        self._uploader = Uploader(bucket)
        self._quiescence = QuiescenceTracker()
        self._committed_at = time.monotonic()
        self._flush = threading.Event()
        self._hashed: dict[str, tuple[Signature, Content]] = {}
        self._marker: CheckpointMarker | None = None
        self._blobs: set[str] = set()
        self._present: tuple[CheckpointFile, ...] = ()
        self._lock = threading.Lock()
        unpin(paths.pinned)

    def sync(self, final: bool) -> None:
        """Commit the set of files as it is, if it is new and quiet; with ``final`` at once. An empty folder commits nothing.

        :raises StoreError: a file could not be stored; the last committed set stays.
        """
        with self._lock:
            found = self._scan()
            self._report(found)
            self._quiescence.update(found.files)
            if found.files and self._is_new(found):
                self._store(found, final)
            if final:
                self._present = self._entries(found)
                self._flush.clear()

    def flush(self) -> None:
        """Stop waiting for quiescence until the next final pass is done, which a caller waits for."""
        self._flush.set()

    def files(self) -> list[ManifestFile]:
        """Return the files of the last final pass."""
        return [
            ManifestFile(path=file.path, size=file.size, sha256=file.sha256, key=file.key, node=file.node)
            for file in self._present
        ]

    def restore(self, run: str, generation: int, nodes: int, newest: bool = False) -> int:
        """Restore the last committed sets of all nodes of a run, this node's own version first; return the number of files.

        Generation 0 is the run's newest. With ``newest``, of a file that several nodes have the one changed last is restored,
        and only if it is newer than the one in place.

        :raises StoreError: the run does not exist, or a file is not available; then nothing was put in place.
        """
        self._flush.set()
        with self._lock:
            self._flush.clear()
            files = self._committed(run, generation, nodes, newest)
            staging = self._paths.restore
            shutil.rmtree(staging, ignore_errors=True)
            with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
                list(pool.map(lambda file: self._download(file, staging), files))
            for file in files:
                _move(staging, self._paths.work, file.path)
            shutil.rmtree(staging, ignore_errors=True)
            return len(files)

    # -- committing

    def _store(self, found: Scan, final: bool) -> None:
        self._load_marker()
        with pinned_files([file for file in found.files if not self._is_stored(file)], self._paths.pinned) as files:
            is_whole = self._is_whole(found, final)
            if is_whole:
                store_each(files, self._store_file, final)
        if is_whole and all(map(self._is_stored, found.files)):
            self._commit(found)
            self._committed_at = time.monotonic()
        elif final:
            raise FileChanged("files in checkpoints are being changed")

    def _scan(self) -> Scan:
        return scan(self._paths.checkpoints, "checkpoints")

    def _is_stored(self, file: ScannedFile) -> bool:
        return self._hashed.get(file.path, (None,))[0] == file.signature

    def _is_new(self, found: Scan) -> bool:
        """Return whether anything differs from the committed set, going by signatures."""
        if self._marker is None or not all(map(self._is_stored, found.files)):
            return True
        return self._entries(found) != self._marker.files

    def _is_whole(self, found: Scan, final: bool) -> bool:
        """Return whether the pinned files all existed at one moment, and none is half a set or half written."""
        if not final and self._flush.wait(QUIET):
            return False
        now = self._scan()
        return now.files == found.files or (not final and self._is_overdue(found, now))

    def _is_overdue(self, found: Scan, now: Scan) -> bool:
        """Return whether one file is replaced again and again while all others are quiet, so that any moment has a whole set.

        Of several such files nobody knows which belong together. A file that is written in place is not stored even then, as
        its link changes with it.
        """
        replaced = {file.path for file in set(found.files) - set(now.files)}
        active = self._quiescence.only_active_file(OVERDUE)
        return active != "" and replaced <= {active} and time.monotonic() - self._committed_at >= OVERDUE

    def _store_file(self, file: ScannedFile) -> None:
        try:
            _check_unchanged(file)  # before it is read in vain
            content = self._put(file)
            _check_unchanged(file)
        except FileChanged:
            raise FileChanged(f"{file.path} is being changed") from None
        self._hashed[file.path] = (file.signature, content)

    def _put(self, file: ScannedFile) -> Content:
        content = content_of(file.file, file.signature.size)
        key = self._keys.checkpoint_blob(self._node, content.sha256)
        if key not in self._blobs:
            self._uploader.put(key, file.file, content)
            self._blobs.add(key)
        return content

    def _commit(self, found: Scan) -> None:
        old = self._load_marker()
        files = self._entries(found)
        self._hashed = {file.path: self._hashed[file.path] for file in found.files}
        if files == old.files:
            return
        previous = tuple(sorted({file.key for file in old.files}))
        marker = CheckpointMarker(node=self._node, attempt=self._attempt, at=time.time(), files=files, previous=previous)
        self._bucket.put_json(self._keys.checkpoint_marker(self._node), to_data(marker))
        self._marker = marker
        self._delete_unused(marker)

    def _entries(self, found: Scan) -> tuple[CheckpointFile, ...]:
        return tuple(map(self._entry, found.files))

    def _entry(self, file: ScannedFile) -> CheckpointFile:
        _, content = self._hashed[file.path]
        key = self._keys.checkpoint_blob(self._node, content.sha256)
        mtime = file.signature.mtime_ns / 1e9
        return CheckpointFile(path=file.path, size=content.size, sha256=content.sha256, key=key, node=self._node, mtime=mtime)

    def _delete_unused(self, marker: CheckpointMarker) -> None:
        """Delete blobs that neither this marker nor the one before it names; a failure is left to the next commit."""
        try:
            for key in sorted(self._blobs - _blobs_of(marker)):
                self._bucket.delete(key)
                self._blobs.discard(key)
        except StoreError:
            pass

    def _load_marker(self) -> CheckpointMarker:
        """Return the committed set, at first that of an earlier process or attempt of this node."""
        if self._marker is None:
            self._marker = self._read_marker(self._keys, self._node)
            self._blobs |= _blobs_of(self._marker)
        return self._marker

    def _read_marker(self, keys: RunKeys, node: int) -> CheckpointMarker:
        found = self._bucket.get_json(keys.checkpoint_marker(node))
        return from_data(CheckpointMarker, found[0]) if found else CheckpointMarker()

    # -- restoring

    def _committed(self, run: str, generation: int, nodes: int, newest: bool) -> list[CheckpointFile]:
        keys = RunKeys(job_id=run, generation=generation or self._newest_generation(run))
        others = [node for node in range(max(nodes, self._node_count(keys))) if node != self._node]
        by_path: dict[str, CheckpointFile] = {}
        for node in [self._node, *others]:
            for file in self._read_marker(keys, node).files:
                known = by_path.setdefault(file.path, file)
                if newest and file.mtime > known.mtime:
                    by_path[file.path] = file
        return [file for file in by_path.values() if not newest or self._is_newer(file)]

    def _is_newer(self, file: CheckpointFile) -> bool:
        """Return whether a committed file was changed after the one in place; some file systems round times."""
        try:
            return file.mtime > (self._paths.work / checked_path(file.path)).stat().st_mtime + 1e-3
        except FileNotFoundError:
            return True

    def _newest_generation(self, run: str) -> int:
        found = self._bucket.get_json(latest_generation(run))
        if found is None:
            raise StoreError(f"there is no run {run!r} in store {self._bucket.uri}, so there is nothing to resume from")
        return int(found[0]["generation"])

    def _node_count(self, keys: RunKeys) -> int:
        """Return how many nodes the run had, which may be more than it has now."""
        found = self._bucket.get_json(keys.record)
        return len(found[0].get("nodes", ())) if found else 0

    def _download(self, file: CheckpointFile, staging: Path) -> None:
        target = staging / checked_path(file.path)
        download_object(self._bucket, file.key, target, Content(size=file.size, sha256=file.sha256))
        os.utime(target, (file.mtime, file.mtime))


@contextmanager
def pinned_files(files: Iterable[ScannedFile], folder: Path) -> Iterator[tuple[ScannedFile, ...]]:
    """Yield the files as hard links in ``folder``, which keep a content that is replaced under its own name.

    A file that can't be linked is yielded as it is. One that is replaced meanwhile keeps its disk space until the end.
    """
    unpin(folder)
    with suppress(OSError):
        folder.mkdir(mode=0o700)
    try:
        yield tuple(_pin(file, folder / str(number)) for number, file in enumerate(files))
    finally:
        unpin(folder)


def unpin(folder: Path) -> None:
    """Remove the links, also those of a process that was killed."""
    shutil.rmtree(folder, ignore_errors=True)


def _pin(file: ScannedFile, link: Path) -> ScannedFile:
    """Link a file; that fails over two file systems, for another user's file, and on some file systems always."""
    try:
        os.link(os.path.realpath(file.file), link)  # of a symbolic link, its target: Linux would link to the link
        is_same = Signature.of(link) == file.signature  # some layered file systems copy a file that is linked
    except OSError:
        is_same = False
    return replace(file, file=link) if is_same else file


def _check_unchanged(file: ScannedFile) -> None:
    if Signature.of(file.file) != file.signature:
        raise FileChanged(file.path)


def _blobs_of(marker: CheckpointMarker) -> set[str]:
    return {file.key for file in marker.files} | set(marker.previous)


def _move(staging: Path, work: Path, path: str) -> None:
    target = work / path
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(staging / path, target)
