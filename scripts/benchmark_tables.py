"""Writes the last results of a benchmark as a table into docs/benchmarks.md: ``benchmark_tables.py BENCH``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "benchmarks.md"


def main(bench: str) -> int:
    """Replace the table of a benchmark, if the page has marks for it."""
    table = render(json.loads(results(bench).read_text(encoding="utf-8")))
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), bench, table), encoding="utf-8")
    return 0


def results(bench: str) -> Path:
    """Return the file that a benchmark writes its results to."""
    return REPOSITORY / "benchmarks" / "results" / f"{bench}.json"


def render(data: dict[str, Any]) -> str:
    """Return the results as a table in Markdown, with the machine they were measured on."""
    machine = ", ".join(f"{name} {value}" for name, value in data["machine"].items())
    head = ["| row | unit | Muster | peer | | Muster ÷ peer | runs |", "| --- | --- | --- | --- | --- | --- | --- |"]
    brackets = ", in brackets the middle half of the runs" if any(row.get("ours_spread") for row in data["rows"]) else ""
    return "\n".join([*head, *map(_line, data["rows"]), "", f"Medians{brackets}. Machine: {machine}."])


def with_table(text: str, bench: str, table: str) -> str:
    """Return a text with the table between the marks of a benchmark replaced; unchanged without such marks."""
    start, end = f"<!-- bench:{bench} -->\n", f"<!-- /bench:{bench} -->"
    if start not in text:
        return text
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}{table}\n{end}{after}"


def _line(row: dict[str, Any]) -> str:
    cells = [
        f"`{row['row']}`",
        row["unit"],
        _number(row["ours"], row.get("ours_spread")),
        _number(row["peer"], row.get("peer_spread")),
        row["peer_name"] or "-",
        _number(row["ratio"]),
    ]
    return "| " + " | ".join([*cells, str(row["runs"])]) + " |"


def _number(value: float | None, spread: list[float] | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if spread is None else f"{value:.3g} [{spread[0]:.3g}, {spread[1]:.3g}]"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
