"""Drives a real sync process in tests, as the agent does: a node folder, a socket pair, JSON lines; reads what it committed."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

import muster.node.start
from muster.core.codec import to_data
from muster.core.event import Event
from muster.core.paths import NodePaths
from muster.core.store_access import StoreAccess
from muster.core.store_keys import RunKeys
from muster.node.rpc import CommandFailed, Request
from store_server import Store

A = TypeVar("A")
REPLY_LIMIT = 120.0


@dataclass
class SyncNode:
    """One node of one attempt: its folder, and the sync process beside it."""

    folder: Path
    uri: str
    access: StoreAccess
    job: str = "run-1"
    generation: int = 1
    attempt: int = 1
    node: int = 0
    entry: Path = Path(muster.node.start.__file__)
    notes: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    _socket: socket.socket | None = None
    _number: int = 0
    _replies: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        for folder in (self.paths.outputs, self.paths.logs, self.paths.checkpoints, self.paths.ranks):
            folder.mkdir(parents=True, exist_ok=True)
        self.write_access(self.access)
        names = ("job_id", "generation", "attempt", "node", "store")
        values = (self.job, self.generation, self.attempt, self.node, self.uri)
        self.paths.assignment.write_text(json.dumps(dict(zip(names, values, strict=True))))

    @property
    def paths(self) -> NodePaths:
        return NodePaths(root=self.folder)

    @property
    def keys(self) -> RunKeys:
        return RunKeys(job_id=self.job, generation=self.generation)

    def write_access(self, access: StoreAccess) -> None:
        """Write the credentials of the process, or new ones."""
        new = self.paths.access.with_suffix(".new")
        new.write_text(json.dumps(to_data(access)))
        os.replace(new, self.paths.access)

    def start(self) -> SyncNode:
        """Start the process."""
        ours, theirs = socket.socketpair()
        argv = [sys.executable, "-I", str(self.entry), "sync", str(self.folder), "--fd", str(theirs.fileno())]
        with (self.folder / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], stderr=log, start_new_session=True)
        theirs.close()
        self._socket, self._replies = ours, queue.Queue()
        threading.Thread(target=self._read, args=(ours, self._replies), daemon=True).start()
        return self

    def send(self, request: Request[Any], number: int = 0) -> None:
        assert self._socket is not None
        self._socket.sendall(json.dumps({"id": number, **request.encode()}).encode() + b"\n")

    def call(self, request: Request[A]) -> A:
        """Send a request and return its answer.

        :raises CommandFailed: the process answers that it could not do it.
        """
        self._number += 1
        self.send(request, self._number)
        reply = self._replies.get(timeout=REPLY_LIMIT)
        assert reply["id"] == self._number, (reply, self.message())
        return request.decode_reply(reply)

    def failure(self, request: Request[Any]) -> str:
        """Send a request that must fail, and return why it did."""
        with pytest.raises(CommandFailed) as raised:
            self.call(request)
        return str(raised.value)

    def hang_up(self) -> None:
        """Close our end, as an agent does that dies."""
        assert self._socket is not None
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def wait(self, limit: float = 120.0) -> int:
        """Wait for the end of the process and give its status."""
        assert self.process is not None
        return self.process.wait(limit)

    def kill(self) -> None:
        """End the process at once, if there is one."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        if self._socket is not None:
            self._socket.close()

    def log_bytes(self, data: bytes) -> None:
        """Append to the event log, in one write."""
        with self.paths.events.open("ab", buffering=0) as log:
            log.write(data)

    def log_event(self, kind: str, **data: Any) -> None:
        line = {"rank": 0, "text": ""} if kind == "line" else {}
        self.log_bytes(Event(time=time.time(), kind=kind, node=self.node, data={**line, **data}).to_line().encode())

    def message(self) -> str:
        """Return what the process wrote to its diagnostics."""
        return (self.folder / "agent.log").read_text()

    def _read(self, ours: socket.socket, replies: queue.Queue[dict[str, Any]]) -> None:
        try:
            for line in ours.makefile("rb"):
                message = json.loads(line)
                if "note" in message:
                    self.notes.append(message["note"])
                else:
                    replies.put(message)
        except (OSError, ValueError):
            pass


def marker(store: Store, node: int = 0) -> dict[str, Any] | None:
    """Return the marker of a node's committed checkpoints."""
    found = store.open().bucket.get_json(RunKeys(job_id="run-1", generation=1).checkpoint_marker(node))
    return found[0] if found else None


def committed(store: Store, node: int = 0) -> dict[str, bytes]:
    """Return the committed set of a node with the contents of its blobs, which are checked."""
    found = marker(store, node) or {"files": []}
    contents = {}
    for file in found["files"]:
        blob = store.open().bucket.get(file["key"])
        assert blob is not None, f"{file['key']} is named by the marker, and missing"
        assert hashlib.sha256(blob.body).hexdigest() == file["sha256"]
        contents[file["path"]] = blob.body
    return contents
