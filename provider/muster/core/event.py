"""Events: the lines of a node's append-only log, and the cursor of a reader.

On disk and in the store an event is one JSON object a line:
``{"t": seconds since the epoch, "k": kind, "n": node, …}``. A position is the byte offset of a line in its node's log, so the
same cursor serves the node's file and the sealed segments in the store.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

EVENT_VERSION = 1

# kinds of events, and the fields each carries beside t, k and n
LINE = "line"  # rank, text, [part]: one line of a rank's output; part=True when a longer line goes on
STATE = "state"  # state, [reason]: the run is in this state from now (leader's log, or the target: reason of the wait)
RANK_START = "rank_start"  # rank, pid, [number]: the rank's number in torchrun, which may change in each round
RANK_END = "rank_end"  # rank, exit_code | signal, seconds
METRIC = "metric"  # rank, name, value, [step]
FACTS = "facts"  # facts: what preflight saw on this node
NOTE = "note"  # text, level: a message for a person
NODE_END = "node_end"  # the node's last event: nothing of the job is left on it
END = "end"  # state, verdict, manifest: the run's last event (leader's log only)


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of a node's event log; ``data`` has the fields of its kind."""

    time: float
    kind: str
    node: int
    data: dict[str, Any] = field(default_factory=dict)

    def to_line(self) -> str:
        """Return the JSON line, newline included."""
        return json.dumps({"t": round(self.time, 6), "k": self.kind, "n": self.node, **self.data}, ensure_ascii=False) + "\n"

    @classmethod
    def from_line(cls, line: str | bytes) -> Event:
        """Read a JSON line.

        :raises ValueError: the line is no event.
        """
        data = json.loads(line)
        return cls(time=data.pop("t"), kind=data.pop("k"), node=data.pop("n"), data=data)


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Position of a reader: the attempt and a byte offset into each node's event log. Opaque to its holders."""

    attempt: int = 0
    offsets: tuple[int, ...] = ()

    def to_text(self) -> str:
        """Return the text form, ``attempt:offset,offset,…``."""
        return f"{self.attempt}:{','.join(map(str, self.offsets))}"

    @classmethod
    def from_text(cls, text: str) -> Cursor:
        """Read the text form; ``""`` is the beginning.

        :raises ValueError: the text is no cursor.
        """
        if not text:
            return cls()
        attempt, _, offsets = text.partition(":")
        return cls(attempt=int(attempt), offsets=tuple(int(part) for part in offsets.split(",") if part))

    def offset(self, node: int) -> int:
        """Return the position in one node's log."""
        return self.offsets[node] if node < len(self.offsets) else 0

    def moved(self, node: int, offset: int) -> Cursor:
        """Return the cursor with one node's position changed."""
        width = max(len(self.offsets), node + 1)
        offsets = [self.offset(n) for n in range(width)]
        offsets[node] = offset
        return Cursor(attempt=self.attempt, offsets=tuple(offsets))
