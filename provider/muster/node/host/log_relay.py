"""Relays a node's event log to standard output, in whole lines as they come, until the node's last event.

A line that is too long ends the relay: its size goes to standard error as ``{"skipped": bytes}``, and whoever reads starts
another relay behind it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from muster.node.host import liveness
from muster.node.host.file_watch import FileWatch
from muster.node.host.log_stream import LAST_EVENT, LogFile

LISTENER = 0  # our standard input, closed when nobody listens any more
FASTEST = 0.003  # seconds between two looks, however fast the log grows; a container goes soon after its last word
LIVENESS = 1.0  # seconds between two looks whether somebody writes still
BIRTH_TIME = 60.0  # seconds that a guardian may take to write down its pid; the container it is started in may be slow to come


def main(folder: str, offset: int) -> int:
    """Relay ``folder``'s event log from byte ``offset``.

    0 after its last event, when nobody listens, or at a line that is too long; 1 if nobody writes any more.
    """
    log, born = os.path.join(folder, "events.jsonl"), time.monotonic()
    os.close(os.open(log, os.O_WRONLY | os.O_CREAT, 0o600))  # what is to be watched must be there
    changes, file = FileWatch(Path(log)), LogFile(log, offset)
    while True:
        lives = _living(folder, born)  # before reading: what was written before a death is still read
        part = file.read()
        if part.skipped:
            sys.stderr.write(json.dumps({"skipped": part.skipped}))
            return 0
        _write(part.lines)
        if LAST_EVENT in part.lines:
            return 0
        if not (part.lines or part.more or lives):
            return 1
        if part.lines:
            changes.reset()
            time.sleep(FASTEST)
        if changes.wait([LISTENER], 0.0 if part.lines or part.more else LIVENESS) and not os.read(LISTENER, 4096):
            return 0  # whoever started us has closed our input


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]


def _living(folder: str, born: float) -> bool:
    """Return whether guardian or agent live, or may still be about to be born."""
    if os.path.exists(os.path.join(folder, "guardian.json")):
        return bool(liveness.pids(folder))
    return time.monotonic() < born + BIRTH_TIME
