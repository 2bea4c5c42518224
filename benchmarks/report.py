"""Results: the rows of a benchmark, the machine they were measured on, the file and the table they end in."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a result: medians over ``runs``; ``ratio`` is ours ÷ peer. The spreads are the middle half of the runs."""

    row: str
    unit: str
    ours: float
    peer: float | None
    peer_name: str
    ratio: float | None
    runs: int
    ours_spread: tuple[float, float] | None = None
    peer_spread: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a row must not go over, or not under: its ``ratio``, or else its ``ours``."""

    at_most: float | None = None
    at_least: float | None = None
    of: str = "ratio"

    def met(self, row: Row) -> bool:
        value = getattr(row, self.of)
        if value is None:
            return False
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)

    def text(self) -> str:
        limit = f"<= {self.at_most:g}" if self.at_most is not None else f">= {self.at_least:g}"
        return f"{self.of} {limit}"


def row(name: str, unit: str, ours: Sequence[float], peer: Sequence[float] = (), peer_name: str = "") -> Row:
    """Make a row of what was measured."""
    mine = statistics.median(ours)
    theirs = statistics.median(peer) if peer else None
    ratio = round(mine / theirs, 3) if theirs else None
    return Row(
        row=name,
        unit=unit,
        ours=round(mine, 4),
        peer=None if theirs is None else round(theirs, 4),
        peer_name=peer_name,
        ratio=ratio,
        runs=len(ours),
        ours_spread=_spread(ours),
        peer_spread=_spread(peer),
    )


def _spread(values: Sequence[float]) -> tuple[float, float] | None:
    if len(values) < 3:
        return None
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return round(low, 4), round(high, 4)


def write(bench: str, rows: Sequence[Row]) -> Path:
    """Write the result file."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{bench}.json"
    file.write_text(json.dumps({"machine": machine(), "rows": [asdict(r) for r in rows]}, indent=2) + "\n", encoding="utf-8")
    return file


def machine() -> dict[str, object]:
    """Describe this machine; nothing in it names it."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_gib": round(int(_field("/proc/meminfo", "MemTotal").split()[0]) / (1 << 20), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "load": round(os.getloadavg()[2], 2),
    }


def _field(file: str, name: str) -> str:
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "unknown")


def table(rows: Sequence[Row], goals: Mapping[str, Goal]) -> str:
    """Return the rows as text, each with its goal and whether it is met."""
    cells = [("row", "unit", "ours", "peer", "ratio", "peer is", "runs", "goal")]
    for r in rows:
        numbers = (_number(r.ours, r.ours_spread), _number(r.peer, r.peer_spread), _number(r.ratio))
        cells.append((r.row, r.unit, *numbers, r.peer_name or "-", str(r.runs), _verdict(r, goals.get(r.row))))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def _number(value: float | None, spread: tuple[float, float] | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if spread is None else f"{value:.4g} [{spread[0]:.3g}, {spread[1]:.3g}]"


def _verdict(r: Row, goal: Goal | None) -> str:
    return "" if goal is None else f"{goal.text()}: {'met' if goal.met(r) else 'MISSED'}"
