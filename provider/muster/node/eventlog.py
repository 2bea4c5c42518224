"""EventLog: the node's append-only log of events, written in whole lines."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from muster.core.event import Event


class EventLog:
    """Appends events of one node to its file; one write per batch, so a reader meets half a line at the very end at most."""

    def __init__(self, path: Path, node: int) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._node = node

    def add(self, kind: str, **data: Any) -> None:
        """Append one event that happened now."""
        self.add_all([(kind, data)])

    def add_all(self, events: list[tuple[str, dict[str, Any]]]) -> None:
        """Append events that happened now, in order."""
        now = time.time()
        text = "".join(Event(time=now, kind=kind, node=self._node, data=data).to_line() for kind, data in events)
        data = text.encode("utf-8", errors="surrogatepass" if text.isascii() else "replace")
        while data:
            data = data[os.write(self._fd, data) :]
