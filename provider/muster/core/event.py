"""Events: the lines of a node's append-only log, and the cursor of a reader.

On disk and in the store an event is one JSON object a line:
``{"t": seconds since the epoch, "k": kind, "n": node, …}``. A position is the byte offset of a line in its node's log, so the
same cursor serves the node's file and the sealed segments in the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from muster.core.codec import from_data
from muster.core.state import RunState
from muster.core.verdict import Verdict

EVENT_VERSION = 1
LAST_TIME = 253402300799.0  # the end of the year 9999, in seconds since the epoch
SHOWN = 200  # bytes of a broken line that its note shows

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

# what readers rely on, for each kind; a line without it is no event
_FIELDS: Mapping[str, Mapping[str, type]] = MappingProxyType(
    {
        LINE: {"rank": int, "text": str},
        STATE: {"state": str},
        RANK_START: {"rank": int},
        RANK_END: {"rank": int},
        METRIC: {"name": str, "value": object},
        NOTE: {"text": str},
        END: {"state": str, "verdict": object},
    }
)


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
        try:
            data = json.loads(line)
            event = cls(time=float(data.pop("t")), kind=data.pop("k"), node=data.pop("n"), data=data)
            _check(event)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"no event: {error}") from error
        return event


def _check(event: Event) -> None:
    if not (isinstance(event.kind, str) and isinstance(event.node, int) and 0 <= event.time <= LAST_TIME):
        raise ValueError("its time, kind or node is none")
    for name, kind in _FIELDS.get(event.kind, {}).items():
        if not isinstance(event.data[name], kind):
            raise ValueError(f"its {name} is {event.data[name]!r}")
    if event.kind == END:
        RunState(event.data["state"])
        if event.data["verdict"] is not None:
            from_data(Verdict, event.data["verdict"])


def read_lines(data: bytes, node: int, time: float = 0.0) -> Iterator[tuple[int, Event]]:
    """Yield the events of a log's whole lines, each with the number of bytes up to its end; blank lines hold none.

    A line that is no event becomes a note, so that its loss is seen: a dying agent may leave half a line. The note has the
    time of the event before it, for the first one ``time``.
    """
    end = 0
    for line in data.split(b"\n")[:-1]:
        end += len(line) + 1
        if not line.strip():
            continue
        try:
            event = Event.from_line(line)
        except ValueError:
            text = f"a broken line in the event log of node {node}: {line[:SHOWN].decode(errors='replace')}"
            event = note(node, text, time=time)
        time = event.time
        yield end, event


def last_end(tail: bytes) -> Event | None:
    """Return the END event near the end of a leader's log, None if it has not been written."""
    for line in reversed(tail.split(b"\n")):
        if b'"k": "end"' in line:
            try:
                return Event.from_line(line)
            except ValueError:
                continue
    return None


def note(node: int, text: str, *, level: str = "warning", time: float) -> Event:
    """Return a note for people."""
    return Event(time=time, kind=NOTE, node=node, data={"level": level, "text": text})


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
