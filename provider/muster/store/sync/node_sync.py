"""NodeSync: stores what one node has, in the background and on request."""

from __future__ import annotations

import gc
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from muster.core import event
from muster.core.codec import from_data
from muster.core.errors import StoreError
from muster.core.manifest import ManifestFile
from muster.core.paths import NodePaths
from muster.core.plan import CONTINUE
from muster.core.store_keys import RunKeys, run_index
from muster.node.rpc import CommandFailed, Commands, Request
from muster.node.sync_commands import (
    CheckStore,
    CommitManifest,
    Finish,
    OutputName,
    PutRecord,
    RestoreCheckpoints,
    StoreEventLog,
    UploadFiles,
    UploadObjects,
)
from muster.store.credentials import AccessFile
from muster.store.event_segments import EventUploader, LogKeys
from muster.store.probe import put_snapshot, raise_generation
from muster.store.run_store import commit_manifest
from muster.store.s3.bucket import Bucket
from muster.store.s3.retry import StoreOutage, call_within
from muster.store.sync.checkpoints import CheckpointSync
from muster.store.sync.mirror import FolderMirror
from muster.store.sync.periodic_task import PeriodicTask

BACKGROUND = 10  # how much nicer than the ranks
EVENTS_INTERVAL = 1.0
FILES_INTERVAL = 2.0
RECORD_INTERVAL = 3600.0  # each new record wakes the task
CHECK_LIMIT = 15.0  # seconds; a busy store is slow, a wrong address mostly refuses at once
RESTORE_TIMEOUT = 120.0
FAREWELL_LIMIT = 60.0
LAST_LINE_LIMIT = 10.0  # seconds to wait for the guardian's last line, once the agent is gone
OBJECTS_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class NodeLossPolicy:
    """The part of a plan that the sync process needs."""

    on_node_loss: str = ""


@dataclass(frozen=True, kw_only=True)
class SyncedAttempt:
    """The part of a node's assignment that its sync process needs."""

    job_id: str
    generation: int
    attempt: int
    node: int
    store: str
    plan: NodeLossPolicy = NodeLossPolicy()


class NodeSync:
    """The store's side of one node of one attempt; ``report(text)`` is called with what people should know."""

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self._paths = NodePaths(root=folder)
        self._attempt = a = from_data(SyncedAttempt, json.loads(self._paths.assignment.read_text(encoding="utf-8")))
        self._report = report
        self._keys = keys = RunKeys(job_id=a.job_id, generation=a.generation)
        self._bucket = bucket = Bucket(a.store, AccessFile(self._paths.access))
        self._outage = StoreOutage(report)
        self._uploader = EventUploader(bucket, LogKeys(run=keys, attempt=a.attempt, node=a.node), self._paths.events)
        self._folders = FolderMirror(bucket, keys, self._paths, report)
        self._checkpoints = CheckpointSync(
            bucket, keys, self._paths, node=a.node, attempt=a.attempt, report=self._folders.report_left_out
        )
        self._events = PeriodicTask(self._uploader.upload, EVENTS_INTERVAL, self._outage)
        self._files = PeriodicTask(self._sync_files, FILES_INTERVAL, self._outage)
        self._records = PeriodicTask(self._put_record, RECORD_INTERVAL, self._outage)
        self._record: dict[str, Any] | None = None
        self._stored_record: dict[str, Any] | None = None
        self._snapshot: tuple[str, Path] | None = None
        self._alone = False
        self._refused = False  # the check failed: nothing was launched, and there is nothing to keep trying for
        self._is_left_behind = a.node > 0 and a.plan.on_node_loss == CONTINUE
        self._begun = threading.Lock()

    def start(self) -> None:
        """Start the background work, once; not before the check, which a launch waits for."""
        if not self._refused and self._begun.acquire(blocking=False):
            _lower_priority()
            gc.enable()
            for task in (self._records, self._events, self._files):
                task.start()

    # -- requests

    def commands(self) -> Commands:
        """Return the requests that are answered."""
        handlers: dict[type[Request[Any]], Callable[[Any], Any]] = {
            CheckStore: self._check,
            RestoreCheckpoints: self._restore,
            UploadFiles: self._store_files,
            UploadObjects: self._store_objects,
            CommitManifest: self._commit,
            StoreEventLog: self._store_event_log,
            PutRecord: self._set_record,
            Finish: self._finish,
        }
        return Commands({kind: partial(_run, handler) for kind, handler in handlers.items()})

    def _set_record(self, request: PutRecord) -> None:
        self._record = request.record
        self._records.wake()

    def _check(self, request: CheckStore) -> None:
        """Check the store with the first write of every run; the packed code follows in the background."""
        if request.snapshot and request.archive:
            self._snapshot = (request.snapshot, Path(request.archive))
        late = f"store {self._attempt.store} did not answer within {CHECK_LIMIT:g} s; check endpoint_url"
        try:
            call_within(lambda: raise_generation(self._bucket, self._keys.job_id, self._keys.generation), CHECK_LIMIT, late)
        except StoreError:
            self._refused = True
            raise

    def _restore(self, request: RestoreCheckpoints) -> int:
        restore = partial(self._checkpoints.restore, request.run, request.generation, request.nodes, request.newest)
        return self._outage.retry(restore, RESTORE_TIMEOUT)

    def _store_files(self, request: UploadFiles) -> list[ManifestFile]:
        """Store every file; afterwards nothing is stored but on request, so that the manifest stays true."""
        self.start()
        self._checkpoints.flush()
        self._files.demand(request.timeout, then_pause=True)
        return [*self._folders.files(self._attempt.node), *self._checkpoints.files()]

    def _store_objects(self, request: UploadObjects) -> None:
        def store(file: OutputName) -> None:
            self._outage.retry(lambda: self._folders.store_object(file), request.timeout)

        def store_all() -> None:
            with ThreadPoolExecutor(OBJECTS_AT_ONCE) as pool:
                list(pool.map(store, request.files))

        call_within(store_all, request.timeout, _late(f"{len(request.files)} files", request.timeout))

    def _commit(self, request: CommitManifest) -> str:
        work = partial(commit_manifest, self._bucket, self._keys.manifest, request.manifest)
        self._retry_within(work, request.timeout, "the manifest")
        return self._bucket.uri_of(self._keys.manifest)

    def _store_event_log(self, request: StoreEventLog) -> None:
        if self._refused:
            return
        keys = LogKeys(run=self._keys, attempt=self._attempt.attempt, node=request.node)
        uploader = EventUploader(self._bucket, keys, Path(request.path))
        self._retry_within(partial(uploader.upload, final=True), request.timeout, f"the event log of node {request.node}")

    def _retry_within(self, work: Callable[[], None], timeout: float, what: str) -> None:
        call_within(partial(self._outage.retry, work, timeout), timeout, _late(what, timeout))

    def _finish(self, request: Finish) -> None:
        """Store the last record and the end of the event log."""
        if self._refused:
            return
        self.start()
        with ThreadPoolExecutor(2) as pool:
            demands = [pool.submit(task.demand, request.timeout) for task in (self._records, self._events)]
        for demand in demands:
            demand.result()

    def farewell(self) -> None:
        """Store what there is once more, within a minute, after the agent is gone."""
        deadline = time.monotonic() + FAREWELL_LIMIT
        self._alone = True
        self.start()
        last = self._await_last_line()
        self._conclude(last)
        for task in (self._records, self._events, self._files):
            try:
                task.demand(deadline - time.monotonic())
            except StoreError:
                continue

    # -- background

    def _sync_files(self, final: bool) -> None:
        """Store files, and the packed code once.

        After the agent's death checkpoints are not stored: ranks that were killed may have half written them. On a lost node of
        an elastic run nothing is: the other nodes go on, and a file of theirs may have the same name.
        """
        if self._alone and self._is_left_behind:
            return
        self._put_snapshot()
        self._folders.sync(final)
        if not self._alone:
            self._checkpoints.sync(final)

    def _put_snapshot(self) -> None:
        if self._snapshot is None:
            return
        try:
            put_snapshot(self._bucket, *self._snapshot)
        except OSError as error:
            self._report(f"the packed code {self._snapshot[1]} can't be read: {error.strerror}; it is not stored")
        self._snapshot = None

    def _put_record(self, final: bool) -> None:
        record = self._record
        if record is None or record is self._stored_record:
            return
        self._bucket.put_json(self._keys.record, record)
        if self._stored_record is None:
            created = record.get("created") or time.time()
            self._bucket.put(run_index(created, self._keys.job_id), b"")
        self._stored_record = record

    # -- without the agent

    def _await_last_line(self) -> dict[str, Any]:
        """Wait until the guardian has ended the node's event log; return the run's last event, {} if there is none."""
        deadline = time.monotonic() + LAST_LINE_LIMIT
        while True:
            events = self._last_events()
            if any(e.get("k") == event.NODE_END for e in events) or time.monotonic() > deadline:
                return next((e for e in reversed(events) if e.get("k") == event.END), {})
            time.sleep(0.05)

    def _last_events(self) -> list[dict[str, Any]]:
        try:
            with self._paths.events.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - 65536))
                lines = file.read().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        return [found for found in map(_parse, lines) if found]

    def _conclude(self, last: dict[str, Any]) -> None:
        """Write into the leader's record how the run ended, which the agent no longer could."""
        if not last or self._record is None or self._record.get("ended"):
            return
        state, verdict, now = last.get("state"), last.get("verdict"), time.time()
        attempts = [dict(attempt) for attempt in self._record.get("attempts", ())]
        if attempts:
            attempts[-1].update(ended=now, state=state, verdict=verdict)
        self._set_record(
            PutRecord(
                record={**self._record, "state": state, "verdict": verdict, "ended": now, "updated": now, "attempts": attempts}
            )
        )


def _run(handler: Callable[[Any], Any], request: Any) -> Any:
    """Run a handler; a store error is the answer and no bug."""
    try:
        return handler(request)
    except StoreError as error:
        raise CommandFailed(str(error)) from None


def _late(what: str, timeout: float) -> str:
    return f"the store did not take {what} within {timeout:g} s"


def _lower_priority() -> None:
    """Lower the priority below that of the ranks, also where the kernel shares the CPU out by session first."""
    os.nice(BACKGROUND)
    try:
        Path("/proc/self/autogroup").write_text(str(BACKGROUND), encoding="ascii")
    except OSError:
        pass  # the kernel does not share the CPU out by session


def _parse(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}  # half a line: the agent died in it, or reading began in it
    return found if isinstance(found, dict) else {}
