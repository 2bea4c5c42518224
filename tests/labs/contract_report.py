"""Pytest plugin: shows the contract suite's cases as one table at the end of a run, and writes them to a file where asked to.

The suite's tests tell their rows as properties of their reports, which come here from every worker.
"""

from __future__ import annotations

import pytest

from contract.suite import table
from contract.suite.table import Row

PROPERTY = "contract"
RESULTS = "--contract-results"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(RESULTS, metavar="FILE", default="", help="write the contract suite's rows to this file")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(ContractReport(), "contract-report")


class ContractReport:
    """Collects the rows: of several of one case on one target, the first that did not pass."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == PROPERTY and isinstance(value, dict):
                row = Row(**value)
                before = self.rows.get((row.case, row.target))
                if before is None or before.outcome == table.PASSED:
                    self.rows[row.case, row.target] = row

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        rows = table.complete(self.rows)
        if rows:
            terminalreporter.section("contract suite")
            terminalreporter.write_line(table.text(rows))
        if file := config.getoption(RESULTS):
            table.write(rows, config.invocation_params.dir / file)
