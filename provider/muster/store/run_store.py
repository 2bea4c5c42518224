"""RunStore: the record of all runs in S3-compatible storage, as the command line, Airflow and the registry read it."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.core import store_keys
from muster.core.codec import from_data
from muster.core.errors import StoreError, StoreUnusable, UnknownRun
from muster.core.event import Event
from muster.core.manifest import Manifest, ManifestFile
from muster.core.store_access import StoreAccess
from muster.core.store_keys import RunKeys
from muster.store.s3.errors import StoreUnavailable

if TYPE_CHECKING:
    from muster.store.s3.bucket import Bucket

TRIES = 3
CHECK_LIMIT = 6.0  # seconds
CHECK_PATIENCE = 4.0  # seconds of them in which a store that is away is asked again
AT_ONCE = 8


class RunStore:
    """A store by its address ``s3://bucket/prefix``; nothing is loaded or asked before the first use.

    :raises StoreUnusable: the address is not one.
    :raises StoreError: (all methods) the store could not do what was asked.
    """

    def __init__(self, uri: str, access: StoreAccess) -> None:
        try:
            store_keys.split_uri(uri)
        except ValueError as error:
            raise StoreUnusable(str(error)) from None
        self.uri = uri.rstrip("/")
        self._access = access
        self._lock = threading.Lock()
        self._made: Bucket | None = None

    @property
    def bucket(self) -> Bucket:
        """The operations beneath; made, and botocore loaded, at first use."""
        from muster.store.s3.bucket import Bucket

        with self._lock:
            if self._made is None:
                self._made = Bucket(self.uri, lambda: self._access, tries=TRIES)
            return self._made

    def check(self) -> None:
        """Find out whether the store can be reached, read and written, in a few seconds.

        :raises StoreUnusable: it refuses, or is none; one line that says why and what to do.
        :raises StoreError: it is away, which may pass.
        """
        from muster.store.probe import probe
        from muster.store.s3.bucket import Bucket
        from muster.store.s3.retry import call_within

        endpoint = self._access.endpoint_url or "AWS S3"
        late = f"store {self.uri}: {endpoint} did not answer within {CHECK_LIMIT:g} s; check endpoint_url"
        try:
            call_within(lambda: probe(Bucket(self.uri, lambda: self._access), CHECK_PATIENCE), CHECK_LIMIT, late)
        except StoreUnavailable:
            raise
        except StoreError as error:
            raise StoreUnusable(str(error)) from None

    def put_snapshot(self, digest: str, archive: Path) -> None:
        """Store packed code under its digest, unless it is there."""
        from muster.store.probe import put_snapshot

        put_snapshot(self.bucket, digest, archive)

    # -- runs

    def runs(self, limit: int = 20) -> list[dict[str, Any]]:
        """Give the records of the newest runs, newest first."""
        newest = list(islice(_once_each(store_keys.run_of_index(key) for key in self.bucket.keys(store_keys.INDEX)), limit))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return [record for record in pool.map(self._record_or_none, newest) if record is not None]

    def generation(self, job_id: str) -> int:
        """Give a run's newest generation.

        :raises UnknownRun: no such run in this store.
        """
        found = self.bucket.get_json(store_keys.latest_generation(job_id))
        if found is None:
            raise UnknownRun(f"there is no run {job_id!r} in store {self.uri}; `muster ls` lists those there are")
        return int(found[0]["generation"])

    def record(self, job_id: str, generation: int | None = None) -> dict[str, Any]:
        """Give the state document of a run, of its newest generation unless one is named.

        :raises UnknownRun: no such run, or it has not come so far as to have a record.
        """
        keys = self._keys(job_id, generation)
        found = self.bucket.get_json(keys.record)
        if found is None:
            raise UnknownRun(f"run {job_id!r} has no record of generation {keys.generation} in store {self.uri}")
        return found[0]

    def manifest(self, job_id: str, generation: int | None = None) -> Manifest | None:
        """Give what a run committed; None if it did not."""
        found = self.bucket.get_json(self._keys(job_id, generation).manifest)
        return None if found is None else from_data(Manifest, found[0])

    def manifest_uri(self, job_id: str, generation: int) -> str:
        """Give the address of what a run commits."""
        return self.bucket.uri_of(self._keys(job_id, generation).manifest)

    def commit(self, manifest: Manifest, key: str = "") -> None:
        """Write a run's manifest; the same one again is fine.

        :raises PreconditionFailed: another one is there.
        """
        from muster.store.manifest_commit import commit

        keys = RunKeys(job_id=manifest.run, generation=manifest.generation)
        commit(self.bucket, key or keys.manifest, manifest)

    def events(self, job_id: str, generation: int, attempt: int, node: int, offset: int = 0) -> Iterator[tuple[int, Event]]:
        """Yield a node's events from a byte offset on, each with the offset after it, as far as the store has them now."""
        from muster.store.event_reader import read_events
        from muster.store.event_segments import LogKeys

        run = RunKeys(job_id=job_id, generation=generation)
        return read_events(self.bucket, LogKeys(run=run, attempt=attempt, node=node), offset)

    # -- files

    def files(self, job_id: str, generation: int | None = None) -> tuple[ManifestFile, ...]:
        """Give the files of a run: of its manifest, or of its record if it did not commit."""
        manifest = self.manifest(job_id, generation)
        if manifest is not None:
            return manifest.files
        return tuple(from_data(ManifestFile, file) for file in self.record(job_id, generation).get("outputs", ()))

    def read_file(self, job_id: str, path: str, generation: int | None = None) -> Iterator[bytes]:
        """Yield the content of one file, piece by piece, unverified.

        :raises UnknownRun: the run has no such file.
        """
        files = self.files(job_id, generation)
        for file in files:
            if file.path == path:
                return self.bucket.chunks(file.key)
        raise UnknownRun(f"run {job_id!r} has no file {path!r}; it has {[file.path for file in files]}")

    def download(self, job_id: str, pattern: str, dest: Path, generation: int | None = None) -> list[Path]:
        """Bring files of a run to a folder, below their own paths, verified by sha256.

        ``pattern`` is a path, a folder (``outputs``) or a pattern of paths (``outputs/*.pt``).

        :raises UnknownRun: no file fits.
        """
        files = self.files(job_id, generation)
        wanted = [file for file in files if fits(file.path, pattern)]
        if not wanted:
            raise UnknownRun(f"run {job_id!r} has no file that fits {pattern!r}; it has {[file.path for file in files]}")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda file: self._fetch(file, dest), wanted))

    def _fetch(self, file: ManifestFile, dest: Path) -> Path:
        from muster.store.s3.download import fetch, safe
        from muster.store.s3.upload import Content

        target = dest / safe(file.path)
        content = Content(size=file.size, sha256=file.sha256)
        for _ in range(TRIES - 1):
            try:
                fetch(self.bucket, file.key, target, content)
                return target
            except StoreUnavailable:
                continue
        fetch(self.bucket, file.key, target, content)
        return target

    def _record_or_none(self, job_id: str) -> dict[str, Any] | None:
        try:
            return self.record(job_id)
        except UnknownRun:
            return None

    def _keys(self, job_id: str, generation: int | None) -> RunKeys:
        return RunKeys(job_id=job_id, generation=self.generation(job_id) if generation is None else generation)


def _once_each(names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name not in seen:
            seen.add(name)
            yield name


def fits(path: str, pattern: str) -> bool:
    """Say whether a file is meant by a pattern: its path, a folder above it, or a shell pattern."""
    plain = pattern.strip("/")
    return plain == "" or path == pattern or path.startswith(plain + "/") or fnmatch.fnmatchcase(path, pattern)
