"""The contract's table: every case on every target, with how it came out; and what a target says it does not offer."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

PASSED, FAILED, NOT_OFFERED = "passed", "failed", "not offered"
TARGETS: Mapping[str, str] = {  # by name, the module whose docstring says what the target offers
    "local": "muster.targets.local.target",
    "docker": "muster.targets.docker.target",
    "ssh": "muster.targets.ssh.target",
    "slurm": "muster.targets.slurm.target",
}
WHOLE_ON = {"100,000 log lines": "ssh", "1 GB of outputs": "docker"}  # where a case of volume is whole, if not everywhere
Test = TypeVar("Test", bound=Callable[..., None])
HEADING = "| case | not offered because |"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case on one target. ``reason``: why it failed or is not offered, "" if it passed."""

    case: str
    target: str
    outcome: str
    reason: str = ""


def case(name: str) -> Callable[[Test], Test]:
    """Make a test a case of the suite, of this name in the table."""

    def named(test: Test) -> Test:
        test.case = name  # type: ignore[attr-defined]
        return test

    return named


@cache
def not_offered(target: str) -> Mapping[str, str]:
    """Return the cases that a target does not offer, each with its reason, from the table in its docstring."""
    lines = iter(docstring(TARGETS[target]).splitlines())
    reasons: dict[str, str] = {}
    for line in lines:
        if line.strip() == HEADING:
            next(lines)  # the rule below the heading
            for row in lines:
                if not row.startswith("|"):
                    break
                case, reason = (cell.strip() for cell in row.strip().strip("|").split("|"))
                reasons[case] = reason
    return reasons


def docstring(module: str) -> str:
    """Return a module's docstring without importing it; "" if there is no such module."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return ""
    if spec is None or spec.origin is None:
        return ""
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""


def text(rows: Iterable[Row]) -> str:
    """Return the table as people read it: a line for each case, a column for each target, and below it every reason."""
    rows = list(rows)
    outcomes = {(row.case, row.target): row.outcome for row in rows}
    cases = list(dict.fromkeys(row.case for row in rows))
    cells = [("case", *TARGETS), *((case, *(outcomes.get((case, target), "-") for target in TARGETS)) for case in cases)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(TARGETS) + 1)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    reasons = [f"{row.case} [{row.target}] {row.outcome}: {row.reason}" for row in rows if row.reason]
    return "\n".join([*table, *([""] if reasons else []), *reasons])


def cases() -> list[str]:
    """Return the names of all cases, as their tests have them."""
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    return [name for file in files for name in re.findall(r'^@case\("(.+)"\)$', file.read_text("utf-8"), re.MULTILINE)]


def complete(seen: Mapping[tuple[str, str], Row]) -> list[Row]:
    """Return the rows that were seen, case by case in the order of the tests, with all that targets don't offer."""
    rows = dict(seen)
    for target in TARGETS if seen else ():
        for case, reason in not_offered(target).items():
            rows[case, target] = Row(case=case, target=target, outcome=NOT_OFFERED, reason=reason)
    wanted = ((case, target) for case in cases() for target in TARGETS)
    return [rows[row] for row in wanted if row in rows]


def document() -> list[str]:
    """Return the table of what each target offers as the documents show it."""
    lines = [f"| case | {' | '.join(TARGETS)} |", "| --- |" + " --- |" * len(TARGETS)]
    for case in cases():
        offers = (not_offered(target).get(case, "") for target in TARGETS)
        lines.append(f"| {case} | " + " | ".join(f"not offered: {reason}" if reason else "yes" for reason in offers) + " |")
    return lines


def write(rows: Iterable[Row], file: Path) -> None:
    """Write the rows where `make contract` keeps them, with the machine that they were seen on."""
    from benchmarks import report

    file.parent.mkdir(parents=True, exist_ok=True)
    data = {"machine": report.machine(), "rows": [asdict(row) for row in rows]}
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
