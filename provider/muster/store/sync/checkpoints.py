"""Keeps whole sets of checkpoint files: blobs by content, then one marker that names a set that was there at one moment.

A set is held, looked at again after a second of rest, and stored as it was held, whatever replaces its files meanwhile.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from muster.core.errors import StoreError
from muster.core.paths import NodePaths
from muster.core.store_keys import LAYOUT_VERSION, RunKeys, latest_generation
from muster.store.s3.bucket import Bucket
from muster.store.s3.download import fetch, safe
from muster.store.s3.errors import FileChanged
from muster.store.s3.upload import Content, Signature, Uploader, content_of
from muster.store.sync.file_scan import Found, Scan, scan
from muster.store.sync.hard_links import held, let_go
from muster.store.sync.mirror import OVERDUE, QUIET, entry, keep_each
from muster.store.sync.quiescence import Rest

DOWNLOADS_AT_ONCE = 8


class CheckpointSync:
    """One node's ``checkpoints``; ``report`` is told of what a scan leaves out."""

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
        self._rest = Rest()
        self._committed_at = time.monotonic()
        self._hurry = threading.Event()
        self._hashed: dict[str, tuple[Signature, Content]] = {}
        self._marker: dict[str, Any] | None = None
        self._blobs: set[str] = set()
        self._present: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        let_go(paths.held)

    def sync(self, final: bool) -> None:
        """Commit the set of files as it is, if it is new and rests; with ``final`` at once. An empty folder commits nothing.

        :raises StoreError: something could not be stored; the last committed set stays.
        """
        with self._lock:
            seen = self._scan()
            self._report(seen)
            self._rest.look(seen.files)
            if seen.files and self._is_new(seen):
                self._store(seen, final)
            if final:
                self._present = self._entries(seen)
                self._hurry.clear()

    def hurry(self) -> None:
        """Have no pass wait for files to rest, until a final one is done: somebody waits for what comes next."""
        self._hurry.set()

    def files(self) -> list[dict[str, Any]]:
        """Give what the last final pass found, as the agent wants it."""
        return [{key: value for key, value in file.items() if key != "mtime"} for file in self._present]

    def restore(self, run: str, generation: int, nodes: int, newest: bool = False) -> int:
        """Put the last committed sets of all nodes of a run in place, this node's own version first; gives how many files.

        Generation 0 is the run's newest. With ``newest``, of a file that several nodes have the one changed last is taken, and
        only if it is newer than what is in place.

        :raises StoreError: the run isn't there, or a file could not be had; then nothing was put in place.
        """
        self._hurry.set()
        with self._lock:
            self._hurry.clear()
            files = self._committed(run, generation, nodes, newest)
            waiting = self._paths.restore
            shutil.rmtree(waiting, ignore_errors=True)
            with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
                list(pool.map(lambda file: self._fetch(file, waiting), files))
            for file in files:
                _move(waiting, self._paths.work, file["path"])
            shutil.rmtree(waiting, ignore_errors=True)
            return len(files)

    # -- committing

    def _store(self, seen: Scan, final: bool) -> None:
        self._load_marker()
        with held([found for found in seen.files if not self._is_stored(found)], self._paths.held) as files:
            is_whole = self._is_whole(seen, final)
            if is_whole:
                keep_each(files, self._keep, final)
        if is_whole and all(map(self._is_stored, seen.files)):
            self._commit(seen)
            self._committed_at = time.monotonic()
        elif final:
            raise FileChanged("files in checkpoints are being changed")

    def _scan(self) -> Scan:
        return scan(self._paths.checkpoints, "checkpoints")

    def _is_stored(self, found: Found) -> bool:
        return self._hashed.get(found.path, (None,))[0] == found.signature

    def _is_new(self, seen: Scan) -> bool:
        """Say whether anything differs from what is committed, going by signatures."""
        if self._marker is None or not all(map(self._is_stored, seen.files)):
            return True
        return self._entries(seen) != list(self._marker["files"])

    def _is_whole(self, seen: Scan, final: bool) -> bool:
        """Say whether the files that are held were all there at one moment, and none half a set or half written."""
        if not final and self._hurry.wait(QUIET):
            return False
        now = self._scan()
        return now.files == seen.files or (not final and self._is_overdue(seen, now))

    def _is_overdue(self, seen: Scan, now: Scan) -> bool:
        """Say whether one file is replaced again and again while all others rest, so that any moment has a whole set.

        Of several such files nobody can tell which belong together. A file that is written in place isn't stored even so, as
        what is held of it changes with it.
        """
        replaced = {found.path for found in set(seen.files) - set(now.files)}
        alone = self._rest.restless_alone(OVERDUE)
        return alone != "" and replaced <= {alone} and time.monotonic() - self._committed_at >= OVERDUE

    def _keep(self, found: Found) -> None:
        try:
            _check(found)  # before it is read in vain
            content = self._put(found)
            _check(found)
        except FileChanged:
            raise FileChanged(f"{found.path} is being changed") from None
        self._hashed[found.path] = (found.signature, content)

    def _put(self, found: Found) -> Content:
        content = content_of(found.file, found.signature.size)
        key = self._keys.checkpoint_blob(self._node, content.sha256)
        if key not in self._blobs:
            self._uploader.put(key, found.file, content)
            self._blobs.add(key)
        return content

    def _commit(self, seen: Scan) -> None:
        old = self._marker or {"files": []}
        files = self._entries(seen)
        self._hashed = {found.path: self._hashed[found.path] for found in seen.files}
        if files == old["files"]:
            return
        previous = sorted({file["key"] for file in old["files"]})
        head = {"version": LAYOUT_VERSION, "node": self._node, "attempt": self._attempt, "at": time.time()}
        marker = {**head, "files": files, "previous": previous}
        self._bucket.put_json(self._keys.checkpoint_marker(self._node), marker)
        self._marker = marker
        self._drop_unused(marker)

    def _entries(self, seen: Scan) -> list[dict[str, Any]]:
        return [self._entry(found) for found in seen.files]

    def _entry(self, found: Found) -> dict[str, Any]:
        _, content = self._hashed[found.path]
        key = self._keys.checkpoint_blob(self._node, content.sha256)
        return {**entry(found.path, content, key, self._node), "mtime": found.signature.mtime_ns / 1e9}

    def _drop_unused(self, marker: dict[str, Any]) -> None:
        """Delete blobs that neither this marker nor the one before it names; what can't be deleted now is tried again."""
        used = {file["key"] for file in marker["files"]} | set(marker["previous"])
        try:
            for key in sorted(self._blobs - used):
                self._bucket.delete(key)
                self._blobs.discard(key)
        except StoreError:
            pass

    def _load_marker(self) -> None:
        """Go on from what an earlier process or attempt of this node committed."""
        if self._marker is None:
            found = self._bucket.get_json(self._keys.checkpoint_marker(self._node))
            self._marker = found[0] if found else {"files": [], "previous": []}
            self._blobs |= {file["key"] for file in self._marker["files"]} | set(self._marker["previous"])

    # -- restoring

    def _committed(self, run: str, generation: int, nodes: int, newest: bool) -> list[dict[str, Any]]:
        keys = RunKeys(job_id=run, generation=generation or self._newest(run))
        others = [node for node in range(max(nodes, self._width(keys))) if node != self._node]
        by_path: dict[str, dict[str, Any]] = {}
        for node in [self._node, *others]:
            found = self._bucket.get_json(keys.checkpoint_marker(node))
            for file in found[0]["files"] if found else ():
                known = by_path.setdefault(file["path"], file)
                if newest and _changed(file) > _changed(known):
                    by_path[file["path"]] = file
        return [file for file in by_path.values() if not newest or self._is_newer(file)]

    def _is_newer(self, file: dict[str, Any]) -> bool:
        """Say whether a committed file was changed after the one in place; times are rounded on some file systems."""
        try:
            return _changed(file) > (self._paths.work / safe(file["path"])).stat().st_mtime + 1e-3
        except FileNotFoundError:
            return True

    def _newest(self, run: str) -> int:
        found = self._bucket.get_json(latest_generation(run))
        if found is None:
            raise StoreError(f"there is no run {run!r} in store {self._bucket.uri}, so there is nothing to resume from")
        return int(found[0]["generation"])

    def _width(self, keys: RunKeys) -> int:
        """Give how many nodes the run had, which may be more than it has now."""
        found = self._bucket.get_json(keys.record)
        return len(found[0].get("nodes", ())) if found else 0

    def _fetch(self, file: dict[str, Any], waiting: Path) -> None:
        target = waiting / safe(file["path"])
        fetch(self._bucket, file["key"], target, Content(size=file["size"], sha256=file["sha256"]))
        if "mtime" in file:
            os.utime(target, (file["mtime"], file["mtime"]))


def _check(found: Found) -> None:
    if Signature.of(found.file) != found.signature:
        raise FileChanged(found.path)


def _changed(file: dict[str, Any]) -> float:
    return float(file.get("mtime", 0.0))


def _move(waiting: Path, work: Path, path: str) -> None:
    target = work / path
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(waiting / path, target)
