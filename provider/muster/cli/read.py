"""`muster ls`, `show`, `logs` and `download`: commands that read the run store."""

from __future__ import annotations

import argparse
import heapq
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from muster.cli import OK, formatting
from muster.core import event
from muster.core.errors import RequestError, StoreError, StoreUnusable
from muster.core.event import Event
from muster.core.state import RunState
from muster.settings import load_settings

if TYPE_CHECKING:
    from muster.store.run_store import RunStore

T = TypeVar("T")

POLL = 1.0  # seconds between two reads of `logs -f`
END_TIMEOUT = 15.0  # seconds that `logs -f` waits for the last lines of a run that has ended


def open_store(arguments: argparse.Namespace) -> RunStore:
    """Open the store that command line and settings name."""
    from muster.store.run_store import RunStore

    settings = load_settings(Path.cwd(), os.environ)
    return RunStore(settings.choose_store(arguments.store), settings.access)


def first_read(read: Callable[[], T]) -> T:
    """Call the first read of the store.

    :raises StoreUnusable: the store is not reachable, so the request was wrong.
    """
    try:
        return read()
    except StoreError as error:
        raise StoreUnusable(str(error)) from error


def ls(arguments: argparse.Namespace) -> int:
    """List runs, newest first."""
    store = open_store(arguments)
    records = first_read(lambda: store.runs(arguments.limit))
    if arguments.json:
        for record in records:
            print(json.dumps(record, ensure_ascii=False))
        return OK
    for line in formatting.table([formatting.RUN_HEAD, *map(formatting.run_row, records)]):
        print(line)
    return OK


def show(arguments: argparse.Namespace) -> int:
    """Print a run's record."""
    store = open_store(arguments)
    record = first_read(lambda: store.record(arguments.run))
    if arguments.json:
        print(json.dumps(record, ensure_ascii=False, indent=2))
        return OK
    for line in formatting.record_lines(record):
        print(line)
    return OK


def download(arguments: argparse.Namespace) -> int:
    """Fetch files and print where they are."""
    store = open_store(arguments)
    generation = first_read(lambda: store.generation(arguments.run))
    for file in store.download(arguments.run, arguments.pattern, Path(arguments.destination), generation):
        print(file)
    return OK


def logs(arguments: argparse.Namespace) -> int:
    """Print the lines of a run."""
    store = open_store(arguments)
    record = first_read(lambda: store.record(arguments.run))
    known = {rank["rank"] for rank in record.get("ranks") or ()}
    if arguments.rank is not None and known and arguments.rank not in known:
        raise RequestError(f"run {arguments.run} has no rank {arguments.rank}; its ranks are 0 to {max(known)}")
    reader = _Reader(store, record, arguments.attempt)
    for item in reader.follow() if arguments.follow else reader.new():
        line = formatting.event_line(item) if arguments.rank in (None, item.data.get("rank")) else None
        if line is not None and (arguments.rank is None or item.kind == event.LINE):
            print(line)
    return OK


class _Reader:
    """Reads the event logs of all nodes of one attempt, each line once."""

    def __init__(self, store: RunStore, record: dict[str, Any], attempt: int | None) -> None:
        self._store = store
        self._record = record
        self._requested = attempt
        self._start(attempt or record["attempt"])

    def _start(self, attempt: int) -> None:
        nodes = {rank["node"] for rank in self._record.get("ranks") or ()} or {0}
        self._attempt = attempt
        self._offsets = dict.fromkeys(sorted(nodes), 0)
        self._ended = False

    def new(self) -> Iterator[Event]:
        """Return the events since the last read, in order of time over all nodes."""
        return heapq.merge(*(self._of_node(node) for node in self._offsets), key=lambda item: item.time)

    def _of_node(self, node: int) -> Iterator[Event]:
        found = self._store.events(self._record["run"], self._record["generation"], self._attempt, node, self._offsets[node])
        for offset, item in found:
            self._offsets[node] = offset
            self._ended = self._ended or item.kind == event.END
            yield item

    def follow(self) -> Iterator[Event]:
        """Yield all events until the run has ended; continues with the next attempt if there is one.

        The leader writes END when the other nodes' lines are in the store, so one more read finds the last of them.
        """
        final_since = None
        while not self._ended:
            yield from self.new()
            if RunState(self._record["state"]).final:
                final_since = final_since or time.monotonic()
                if time.monotonic() - final_since > END_TIMEOUT:
                    return
            if not self._ended:
                time.sleep(POLL)
                self._refresh()
        yield from self.new()

    def _refresh(self) -> None:
        self._record = self._store.record(self._record["run"], self._record["generation"])
        if self._requested is None and self._record["attempt"] > self._attempt:
            self._start(self._record["attempt"])


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"ls": ls, "show": show, "logs": logs, "download": download}
