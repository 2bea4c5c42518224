"""Puts the last results of a benchmark as a table between its marks in README.md: ``readme_figures.py BENCH``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"


def main(bench: str) -> int:
    """Renew the table in the README, if that has a place for it."""
    table = render(json.loads(results(bench).read_text(encoding="utf-8")))
    README.write_text(with_table(README.read_text(encoding="utf-8"), bench, table), encoding="utf-8")
    return 0


def results(bench: str) -> Path:
    """Where a benchmark writes its results."""
    return REPOSITORY / "benchmarks" / "results" / f"{bench}.json"


def render(data: dict[str, Any]) -> str:
    """Give the results as a table in Markdown, with the machine they were measured on."""
    machine = ", ".join(f"{name} {value}" for name, value in data["machine"].items())
    head = ["| row | unit | Muster | peer | | Muster ÷ peer | runs |", "| --- | --- | --- | --- | --- | --- | --- |"]
    brackets = ", in brackets the middle half of the runs" if any(row.get("ours_spread") for row in data["rows"]) else ""
    return "\n".join([*head, *map(_line, data["rows"]), "", f"Medians{brackets}. Machine: {machine}."])


def with_table(text: str, bench: str, table: str) -> str:
    """Give a text with what stands between the marks of a benchmark replaced; unchanged if it has no such marks."""
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
