"""Keeps whole sets of checkpoint files: blobs by content, then one marker that names a set that was there at one moment."""

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
from muster.core.layout import LAYOUT_VERSION, RunKeys, latest_generation
from muster.core.paths import NodePaths
from muster.store.client import Bucket
from muster.store.download import fetch, safe
from muster.store.errors import Changed
from muster.store.folders import Quietness, entry, keep_each
from muster.store.scanning import Found, Scan, scan
from muster.store.upload import Content, Signature, Uploader, content_of

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
        self._quiet = Quietness()
        self._hashed: dict[str, tuple[Signature, Content]] = {}
        self._marker: dict[str, Any] | None = None
        self._blobs: set[str] = set()
        self._present: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def sync(self, final: bool) -> None:
        """Commit the set of files as it is, if it is new and did not change meanwhile. An empty folder commits nothing.

        :raises StoreError: something could not be stored; the last committed set stays.
        """
        with self._lock:
            seen = scan(self._paths.checkpoints, "checkpoints")
            self._report(seen)
            quiet = [self._quiet.holds(found) for found in seen.files]
            if seen.files and (final or all(quiet)) and self._is_new(seen):
                self._store(seen, final)
            if final:
                self._present = [self._entry(found) for found in seen.files]

    def files(self) -> list[dict[str, Any]]:
        """Give what the last final pass found, as the agent wants it."""
        return [{key: value for key, value in file.items() if key != "mtime"} for file in self._present]

    def restore(self, run: str, generation: int, nodes: int, newest: bool = False) -> int:
        """Put the last committed sets of all nodes of a run in place, this node's own version first; gives how many files.

        Generation 0 is the run's newest. With ``newest``, of a file that several nodes have the one changed last is taken, and
        only if it is newer than what is in place.

        :raises StoreError: the run isn't there, or a file could not be had; then nothing was put in place.
        """
        with self._lock:
            files = self._committed(run, generation, nodes, newest)
            waiting = self._paths.root / "restore"
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
        keep_each(seen.files, self._keep, final)
        if self._is_whole(seen):
            self._commit(seen)
        elif final:
            raise Changed("files in checkpoints are being changed")

    def _is_new(self, seen: Scan) -> bool:
        """Say whether anything differs from what is committed, going by signatures."""
        committed = {file["path"] for file in self._marker["files"]} if self._marker else set()
        known = all(self._hashed.get(found.path, (None,))[0] == found.signature for found in seen.files)
        return not known or committed != {found.path for found in seen.files}

    def _keep(self, found: Found) -> None:
        signature, content = self._hashed.get(found.path, (None, None))
        if content is None or signature != found.signature:
            content = content_of(found.file, found.signature.size)
        key = self._keys.checkpoint_blob(self._node, content.sha256)
        if key not in self._blobs:
            self._uploader.put(key, found.file, content)
            self._blobs.add(key)
        self._hashed[found.path] = (found.signature, content)

    def _is_whole(self, seen: Scan) -> bool:
        """Say whether the folder still is what was stored: then all of it was there at one moment."""
        now = scan(self._paths.checkpoints, "checkpoints")
        stored = {path: signature for path, (signature, _) in self._hashed.items()}
        return now.files == seen.files and all(stored.get(found.path) == found.signature for found in seen.files)

    def _commit(self, seen: Scan) -> None:
        old = self._marker or {"files": []}
        files = [self._entry(found) for found in seen.files]
        self._hashed = {found.path: self._hashed[found.path] for found in seen.files}
        if files == old["files"]:
            return
        previous = sorted({file["key"] for file in old["files"]})
        head = {"version": LAYOUT_VERSION, "node": self._node, "attempt": self._attempt, "at": time.time()}
        marker = {**head, "files": files, "previous": previous}
        self._bucket.put_json(self._keys.checkpoint_marker(self._node), marker)
        self._marker = marker
        self._drop_unused(marker)

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


def _changed(file: dict[str, Any]) -> float:
    return float(file.get("mtime", 0.0))


def _move(waiting: Path, work: Path, path: str) -> None:
    target = work / path
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(waiting / path, target)
