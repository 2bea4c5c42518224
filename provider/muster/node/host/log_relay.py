"""The relay: pushes a node's event log to its standard output, in whole lines as they come, until the node's last word."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from muster.node.host import liveness
from muster.node.host.file_watch import FileWatch

LISTENER = 0  # our standard input, closed when nobody listens any more
FASTEST = 0.003  # seconds between two looks, however fast the log grows; a container goes soon after its last word
LIVENESS = 1.0  # seconds between two looks whether somebody writes still
READ_SIZE = 1 << 20
LAST_EVENT = b'"k": "node_end"'
BIRTH_TIME = 60.0  # seconds that a guardian may take to write down its pid; the container it is started in may be slow to come


def main(folder: str, offset: int) -> int:
    """Relay ``folder``'s event log from byte ``offset``; 0 after its last event, or when nobody listens; 1 if nobody writes."""
    log, born = os.path.join(folder, "events.jsonl"), time.monotonic()
    os.close(os.open(log, os.O_WRONLY | os.O_CREAT, 0o600))  # what is to be watched must be there
    changes = FileWatch(Path(log))
    while True:
        lives = _living(folder, born)  # before reading: what was written before a death is still read
        whole = _read(log, offset)
        offset += len(whole)
        _write(whole)
        if LAST_EVENT in whole[-65536:]:
            return 0
        if not whole and not lives:
            return 1
        if whole:
            changes.reset()
            time.sleep(FASTEST)
        if changes.wait([LISTENER], 0.0 if whole else LIVENESS) and not os.read(LISTENER, 4096):
            return 0  # whoever started us has closed our input


def _read(log: str, offset: int) -> bytes:
    """Give the next whole lines."""
    try:
        with open(log, "rb") as file:
            file.seek(offset)
            data = file.read(READ_SIZE)
            while data and b"\n" not in data and (more := file.read(READ_SIZE)):
                data += more
    except FileNotFoundError:
        return b""
    return data[: data.rfind(b"\n") + 1]


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]


def _living(folder: str, born: float) -> bool:
    """Whether guardian or agent live, or may still be about to be born."""
    if os.path.exists(os.path.join(folder, "guardian.json")):
        return bool(liveness.pids(folder))
    return time.monotonic() < born + BIRTH_TIME
