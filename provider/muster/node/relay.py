"""The relay: pushes a node's event log to its standard output, in whole lines as they come, until the node's last word."""

from __future__ import annotations

import json
import os
import select
import sys
import time

from muster.node import processes

FASTEST, SLOWEST = 0.01, 0.15  # seconds between two looks, while something happens and while nothing does
READ_SIZE = 1 << 20
LAST_WORD = b'"k": "node_end"'
BIRTH_TIME = 60.0  # seconds that a guardian may take to write down its pid


def main(folder: str, offset: int) -> int:
    """Relay ``folder``'s event log from byte ``offset``; 0 after its last event, or when nobody listens; 1 if nobody writes."""
    log, pause, born = os.path.join(folder, "events.jsonl"), FASTEST, time.monotonic()
    while True:
        living = _living(folder, born)  # before reading: what was written before a death is still read
        whole = _read(log, offset)
        offset += len(whole)
        _write(whole)
        if LAST_WORD in whole[-65536:]:
            return 0
        if not whole and not living:
            return 1
        pause = FASTEST if whole else min(pause * 1.3, SLOWEST)
        if len(whole) < READ_SIZE // 2 and _is_left_alone(pause):
            return 0


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


def _is_left_alone(pause: float) -> bool:
    """Wait a little; True if whoever started us has closed our input, which says that nobody listens any more."""
    readable, _, _ = select.select([sys.stdin], [], [], pause)
    return bool(readable) and not os.read(sys.stdin.fileno(), 4096)


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]


def _living(folder: str, born: float) -> bool:
    """Whether guardian or agent live, or may still be about to be born."""
    known = [_is_living(os.path.join(folder, name)) for name in ("guardian.json", "agent.json")]
    if known == [None, None]:
        return time.monotonic() < born + BIRTH_TIME
    return True in known


def _is_living(file: str) -> bool | None:
    try:
        with open(file, encoding="utf-8") as text:
            process = json.load(text)
    except (FileNotFoundError, ValueError):
        return None
    return processes.start_time(int(process["pid"])) == int(process["start"])
