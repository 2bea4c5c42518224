"""RunStore: the record of all runs in S3-compatible storage, for the command line, Airflow and the registry."""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.core import store_keys
from muster.core.codec import from_data, to_data
from muster.core.errors import StoreError, StoreUnusable, UnknownRun
from muster.core.event import Event
from muster.core.manifest import Manifest, ManifestFile
from muster.core.retry import Backoff, retry
from muster.core.store_access import StoreAccess
from muster.core.store_keys import RunKeys
from muster.store.s3.errors import PreconditionFailed, StoreUnavailable

if TYPE_CHECKING:
    from muster.store.s3.bucket import Bucket

TRIES = 3
CHECK_LIMIT = 15.0  # seconds; a busy store is slow, a wrong address mostly refuses at once
CHECK_TIMEOUT = 4.0  # seconds of them in which an unavailable store is retried
AT_ONCE = 8


class RunStore:
    """The store at ``s3://bucket/prefix``; loads botocore and sends requests only at the first use.

    :raises StoreUnusable: the address has another form.
    :raises StoreError: (all methods) a request failed.
    """

    def __init__(self, uri: str, access: StoreAccess) -> None:
        try:
            store_keys.split_uri(uri)
        except ValueError as error:
            raise StoreUnusable(str(error)) from None
        self.uri = uri.rstrip("/")
        self._access = access
        self._lock = threading.Lock()
        self._opened: Bucket | None = None

    @property
    def bucket(self) -> Bucket:
        """The bucket, opened at first use."""
        from muster.store.s3.bucket import Bucket

        with self._lock:
            if self._opened is None:
                self._opened = Bucket(self.uri, lambda: self._access, tries=TRIES)
            return self._opened

    def check(self) -> None:
        """Check in a few seconds that the store can be reached, read and written.

        :raises StoreUnusable: the store denies access, or there is none; one line that says why and what to do.
        :raises StoreUnavailable: the store is unreachable or overloaded, which may pass.
        """
        from muster.store.probe import probe
        from muster.store.s3.bucket import Bucket
        from muster.store.s3.retry import call_within

        endpoint = self._access.endpoint_url or "AWS S3"
        late = f"store {self.uri}: {endpoint} did not answer within {CHECK_LIMIT:g} s; check endpoint_url"
        try:
            call_within(lambda: probe(Bucket(self.uri, lambda: self._access), CHECK_TIMEOUT), CHECK_LIMIT, late)
        except StoreUnavailable:
            raise
        except StoreError as error:
            raise StoreUnusable(str(error)) from None

    def put_snapshot(self, digest: str, archive: Path) -> None:
        """Store packed code under its digest, unless the store has it."""
        from muster.store.probe import put_snapshot

        put_snapshot(self.bucket, digest, archive)

    # -- runs

    def runs(self, limit: int = 20) -> list[dict[str, Any]]:
        """Return the records of the newest runs, newest first."""
        newest = list(islice(_unique(store_keys.run_of_index(key) for key in self.bucket.keys(store_keys.INDEX)), limit))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return [record for record in pool.map(self._record_or_none, newest) if record is not None]

    def generation(self, job_id: str) -> int:
        """Return a run's newest generation.

        :raises UnknownRun: no such run in this store.
        """
        found = self.bucket.get_json(store_keys.latest_generation(job_id))
        if found is None:
            raise UnknownRun(f"there is no run {job_id!r} in store {self.uri}; `muster ls` lists those there are")
        return int(found[0]["generation"])

    def record(self, job_id: str, generation: int | None = None) -> dict[str, Any]:
        """Return the state document of a run, of its newest generation unless one is given.

        :raises UnknownRun: no such run, or it has no record yet.
        """
        keys = self._keys(job_id, generation)
        found = self.bucket.get_json(keys.record)
        if found is None:
            raise UnknownRun(f"run {job_id!r} has no record of generation {keys.generation} in store {self.uri}")
        return found[0]

    def manifest(self, job_id: str, generation: int | None = None) -> Manifest | None:
        """Return the manifest of a run; None if it did not commit."""
        found = self.bucket.get_json(self._keys(job_id, generation).manifest)
        return None if found is None else from_data(Manifest, found[0])

    def manifest_uri(self, job_id: str, generation: int) -> str:
        """Return the address of a run's manifest."""
        return self.bucket.uri_of(self._keys(job_id, generation).manifest)

    def commit(self, manifest: Manifest, key: str = "") -> None:
        """Commit a run; see :func:`commit_manifest`.

        :raises PreconditionFailed: the run is committed with another manifest.
        """
        keys = RunKeys(job_id=manifest.run, generation=manifest.generation)
        commit_manifest(self.bucket, key or keys.manifest, manifest)

    def events(self, job_id: str, generation: int, attempt: int, node: int, offset: int = 0) -> Iterator[tuple[int, Event]]:
        """Yield a node's events from a byte offset on, each with the offset after it, up to the end of the store's copy."""
        from muster.store.event_segments import LogKeys, read_events

        run = RunKeys(job_id=job_id, generation=generation)
        return read_events(self.bucket, LogKeys(run=run, attempt=attempt, node=node), offset)

    # -- files

    def files(self, job_id: str, generation: int | None = None) -> tuple[ManifestFile, ...]:
        """Return the files of a run: of its manifest, or of its record if it did not commit."""
        manifest = self.manifest(job_id, generation)
        if manifest is not None:
            return manifest.files
        return tuple(from_data(ManifestFile, file) for file in self.record(job_id, generation).get("outputs", ()))

    def download(self, job_id: str, pattern: str, dest: Path, generation: int | None = None) -> list[Path]:
        """Download files of a run to a folder, below their own paths, verified by sha256.

        ``pattern`` is a path, a folder (``outputs``) or a pattern of paths (``outputs/*.pt``).

        :raises UnknownRun: no file matches.
        """
        files = self.files(job_id, generation)
        matching = [file for file in files if matches(file.path, pattern)]
        if not matching:
            raise UnknownRun(f"run {job_id!r} has no file that matches {pattern!r}; it has {[file.path for file in files]}")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda file: self._download(file, dest), matching))

    def _download(self, file: ManifestFile, dest: Path) -> Path:
        from muster.store.s3.download import checked_path, download_object
        from muster.store.s3.upload import Content

        target = dest / checked_path(file.path)
        content = Content(size=file.size, sha256=file.sha256)
        fetch = partial(download_object, self.bucket, file.key, target, content)
        retry(fetch, StoreUnavailable, Backoff(0.0, 0.0), tries=TRIES)
        return target

    def _record_or_none(self, job_id: str) -> dict[str, Any] | None:
        try:
            return self.record(job_id)
        except UnknownRun:
            return None

    def _keys(self, job_id: str, generation: int | None) -> RunKeys:
        return RunKeys(job_id=job_id, generation=self.generation(job_id) if generation is None else generation)


def _unique(names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name not in seen:
            seen.add(name)
            yield name


def matches(path: str, pattern: str) -> bool:
    """Return whether a pattern matches a file: its path, a folder above it, or a shell pattern."""
    plain = pattern.strip("/")
    return plain == "" or path == pattern or path.startswith(plain + "/") or fnmatch.fnmatchcase(path, pattern)


def commit_manifest(bucket: Bucket, key: str, manifest: Manifest) -> None:
    """Write a manifest if there is none; the same one again is fine.

    :raises PreconditionFailed: there is another one.
    """
    try:
        bucket.put_json(key, to_data(manifest), if_absent=True)
    except PreconditionFailed:
        found = bucket.get_json(key)
        if found is None:
            raise
        stored = from_data(Manifest, found[0]).digest()
        if stored != manifest.digest():
            raise PreconditionFailed(
                f"{bucket.uri_of(key)} is already committed with {stored}, not {manifest.digest()}; a commit is never "
                "replaced: clear the task, or run under another name, to train anew"
            ) from None
