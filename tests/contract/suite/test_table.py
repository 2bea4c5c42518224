"""The table itself: every case is there, what a target does not offer is a case, and the documents say the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.suite import table
from contract.suite.table import Row

DOCUMENT = Path(__file__).parents[3] / "docs" / "targets.md"
WANTED = {
    "success",
    "failing rank",
    "signal",
    "out of memory",
    "cancel",
    "deadline",
    "re-attach",
    "double submit",
    "hostile arguments",
    "100,000 log lines",
    "1 GB of outputs",
    "many small outputs",
    "unicode names",
    "lost connection",
    "node lost",
    "wrong credentials",
    "full disk",
    "clock skew",
}


def test_every_case_is_there_once() -> None:
    cases = table.cases()
    assert len(cases) == len(set(cases))
    assert set(cases) >= WANTED


@pytest.mark.parametrize("target", table.TARGETS)
def test_what_is_not_offered_is_a_case_and_has_a_reason(target: str) -> None:
    reasons = table.not_offered(target)
    assert set(reasons) <= set(table.cases())
    assert all(reasons.values())
    assert table.docstring(table.TARGETS[target]), f"there is no module {table.TARGETS[target]}"


def test_the_document_shows_what_the_targets_say() -> None:
    written = DOCUMENT.read_text(encoding="utf-8")
    assert "\n".join(table.document()) in written, "write into docs/targets.md:\n" + "\n".join(table.document())


def test_a_table_shows_every_row_and_every_reason() -> None:
    rows = [
        Row(case="success", target="local", outcome=table.PASSED),
        Row(case="success", target="ssh", outcome=table.FAILED, reason="Timeout"),
        Row(case="lost connection", target="local", outcome=table.NOT_OFFERED, reason="there is none"),
    ]
    header, success, connection, *reasons = table.text(rows).splitlines()
    assert header.split() == ["case", *table.TARGETS]
    assert success.split()[:3] == ["success", "passed", "-"]
    assert "failed" in success
    assert connection.startswith("lost connection  not offered  -")
    assert reasons == ["", "success [ssh] failed: Timeout", "lost connection [local] not offered: there is none"]
