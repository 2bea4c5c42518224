"""NodeSync: what the sync process does for its node, in the background and on request."""

from __future__ import annotations

import gc
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from muster.core import event
from muster.core.codec import from_data
from muster.core.errors import StoreError
from muster.core.manifest import Manifest
from muster.core.paths import NodePaths
from muster.core.plan import CONTINUE
from muster.core.store_keys import RunKeys, run_index
from muster.store.event_segments import EventShipper, LogKeys
from muster.store.manifest_commit import commit
from muster.store.probe import put_snapshot, raise_generation
from muster.store.s3.access_file import AccessFile
from muster.store.s3.bucket import Bucket
from muster.store.s3.retry import StoreOutage, call_within
from muster.store.sync.checkpoints import CheckpointSync
from muster.store.sync.mirror import FolderSync
from muster.store.sync.periodic_task import PeriodicTask

BACKGROUND = 10  # how much nicer than the ranks
EVENTS_INTERVAL = 1.0
FILES_INTERVAL = 2.0
RECORD_INTERVAL = 3600.0  # it is woken for each new record
CHECK_LIMIT = 5.0
RESTORE_PATIENCE = 120.0
ADOPT_PATIENCE = 10.0
FAREWELL_LIMIT = 60.0
LAST_LINE_LIMIT = 10.0  # seconds to wait for the guardian's last line, once the agent is gone
PLACES_AT_ONCE = 8


class NodeSync:
    """The store's side of one node of one attempt. ``tell`` is given what a person should know.

    Methods named ``do_…`` are requests; they give the fields of the reply.

    :raises StoreError: (those) the request could not be fulfilled.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self._paths = NodePaths(root=folder)
        self._assignment = json.loads(self._paths.assignment.read_text(encoding="utf-8"))
        self._tell = tell
        a = self._assignment
        self._node = int(a["node"])
        self._keys = keys = RunKeys(job_id=a["job_id"], generation=a["generation"])
        self._bucket = bucket = Bucket(a["store"], AccessFile(self._paths.access))
        self._outage = StoreOutage(tell)
        self._shipper = EventShipper(bucket, LogKeys(run=keys, attempt=a["attempt"], node=self._node), self._paths.events)
        self._folders = FolderSync(bucket, keys, self._paths, tell)
        report = self._folders.report
        self._checkpoints = CheckpointSync(bucket, keys, self._paths, node=self._node, attempt=a["attempt"], report=report)
        self._events = PeriodicTask(self._shipper.ship, EVENTS_INTERVAL, self._outage)
        self._files = PeriodicTask(self._sync_files, FILES_INTERVAL, self._outage)
        self._records = PeriodicTask(self._put_record, RECORD_INTERVAL, self._outage)
        self._record: dict[str, Any] | None = None
        self._stored_record: dict[str, Any] | None = None
        self._snapshot: tuple[str, Path] | None = None
        self._alone = False
        self._refused = False  # the check failed: nothing was launched, and there is nothing to keep trying for
        self._is_left_behind = self._node > 0 and a.get("plan", {}).get("on_node_loss") == CONTINUE
        self._begun = threading.Lock()

    def begin(self) -> None:
        """Start the background work, once; not before the check, which a launch waits for. Ranks have the CPU first."""
        if not self._refused and self._begun.acquire(blocking=False):
            _step_back()
            gc.enable()
            for task in (self._records, self._events, self._files):
                task.start()

    def record(self, record: dict[str, Any]) -> None:
        """Take the run's state document; the newest is stored soon."""
        self._record = record
        self._records.wake()

    # -- requests

    def do_check(self, snapshot: str = "", archive: str | None = None) -> dict[str, Any]:
        """Find out in a few seconds whether the store can be used; the packed code follows in the background."""
        if snapshot and archive:
            self._snapshot = (snapshot, Path(archive))
        late = f"store {self._assignment['store']} did not answer within {CHECK_LIMIT:g} s; check endpoint_url"
        try:
            call_within(lambda: raise_generation(self._bucket, self._keys.job_id, self._keys.generation), CHECK_LIMIT, late)
        except StoreError:
            self._refused = True
            raise
        return {}

    def do_restore(self, run: str, generation: int, nodes: int, newest: bool = False) -> dict[str, Any]:
        """Put the last committed checkpoints of a run in place."""
        restore = partial(self._checkpoints.restore, run, generation, nodes, newest)
        return {"files": self._outage.retry(restore, RESTORE_PATIENCE)}

    def do_files(self, patience: float) -> dict[str, Any]:
        """Store every file as it is now; afterwards nothing is stored but on request, so that the manifest stays true."""
        self.begin()
        self._checkpoints.hurry()
        self._files.demand(patience, then_pause=True)
        return {"files": [*self._folders.files(self._node), *self._checkpoints.files()]}

    def do_place(self, files: list[dict[str, str]], patience: float) -> dict[str, Any]:
        """Make sure that objects have the content of local files."""

        def place(file: dict[str, str]) -> None:
            self._outage.retry(lambda: self._folders.place(file["path"], file["key"]), patience)

        def place_all() -> None:
            with ThreadPoolExecutor(PLACES_AT_ONCE) as pool:
                list(pool.map(place, files))

        call_within(place_all, patience, f"the store did not take {len(files)} files within {patience:g} s")
        return {}

    def do_drop(self, keys: list[str], patience: float = ADOPT_PATIENCE) -> dict[str, Any]:
        """Delete objects."""
        for key in keys:
            self._outage.retry(partial(self._bucket.delete, key), patience)
        return {}

    def do_commit(self, manifest: dict[str, Any], patience: float) -> dict[str, Any]:
        """Write the manifest, once; gives where it is, and its digest."""
        value = from_data(Manifest, manifest)
        work = partial(commit, self._bucket, self._keys.manifest, value)
        call_within(
            partial(self._outage.retry, work, patience), patience, f"the store did not take the manifest within {patience:g} s"
        )
        return {"uri": self._bucket.uri_of(self._keys.manifest), "digest": value.digest()}

    def do_adopt(self, node: int, log: str, files_prefix: None = None, patience: float = ADOPT_PATIENCE) -> dict[str, Any]:
        """Store the whole event log of a node that had no sync process of its own."""
        if self._refused:
            return {}
        shipper = EventShipper(self._bucket, LogKeys(run=self._keys, attempt=self._assignment["attempt"], node=node), Path(log))
        late = f"the store did not take the event log of node {node} within {patience:g} s"
        call_within(partial(self._outage.retry, partial(shipper.ship, final=True), patience), patience, late)
        return {}

    def do_finish(self, patience: float) -> dict[str, Any]:
        """Store the last record and the end of the event log."""
        if self._refused:
            return {}
        self.begin()
        with ThreadPoolExecutor(2) as pool:
            demands = [pool.submit(task.demand, patience) for task in (self._records, self._events)]
        for demand in demands:
            demand.result()
        return {}

    def farewell(self) -> None:
        """The agent is gone: store what there is once more, within a minute."""
        give_up = time.monotonic() + FAREWELL_LIMIT
        self._alone = True
        self.begin()
        last = self._await_last_line()
        self._conclude(last)
        for task in (self._records, self._events, self._files):
            try:
                task.demand(give_up - time.monotonic())
            except StoreError:
                continue

    # -- background

    def _sync_files(self, final: bool) -> None:
        """Store files, and the packed code if it still has to be; checkpoints of a gang that was killed may be half written.

        What a lost node of an elastic run has is left: the others go on, and a file of theirs may have the same name.
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
            self._tell(f"the packed code {self._snapshot[1]} can't be read: {error.strerror}; it is not stored")
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
        """Wait until the guardian has ended the node's event log; gives the run's last event, {} if there is none."""
        give_up = time.monotonic() + LAST_LINE_LIMIT
        while True:
            events = self._last_events()
            if any(e.get("k") == event.NODE_END for e in events) or time.monotonic() > give_up:
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
        self.record({**self._record, "state": state, "verdict": verdict, "ended": now, "updated": now, "attempts": attempts})


def _step_back() -> None:
    """Leave the CPU to the ranks; where the kernel shares it out by session first, our session has to step back as well."""
    os.nice(BACKGROUND)
    try:
        Path("/proc/self/autogroup").write_text(str(BACKGROUND), encoding="ascii")
    except OSError:
        pass  # no such sharing here


def _parse(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}  # half a line: of a dead agent, or where we began to read
    return found if isinstance(found, dict) else {}
