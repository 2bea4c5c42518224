"""`python -m benchmarks BENCH`: measure, write benchmarks/results/BENCH.json, print the table."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks import report

ROOT = Path(__file__).resolve().parent.parent
BORROWED = ("scripts", "tests/labs")  # have the server of the store, on this machine and in a container

BENCHES = ("launch", "containers", "clusters")


def main(argv: list[str] | None = None) -> int:
    """Run one benchmark, whole or some of its rows; a table with only some is printed, not written."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("bench", choices=BENCHES)
    parser.add_argument("--row", action="append", help="only this row (may be repeated); nothing is written then")
    arguments = parser.parse_args(argv)
    sys.path[:0] = [str(ROOT / folder) for folder in BORROWED]
    bench = importlib.import_module(f"benchmarks.{arguments.bench}")
    rows = bench.measure(arguments.row or bench.ROWS)
    if not arguments.row:
        print(report.write(arguments.bench, rows))
    print(report.table(rows, bench.GOALS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
