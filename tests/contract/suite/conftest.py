"""The contract suite: every test here is a case, run on every target; what came out is shown as one table.

A case that a target does not offer, by the table in the target's docstring, is not run there and is a row with that reason.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from contract.labs import login_node
from contract.labs.login_node import LoginSshd
from contract.suite import table
from contract.suite.table import Row
from contract.suite.target_lab import TargetLab
from slurm_cluster import SlurmCluster

ROWS = pytest.StashKey[dict[tuple[str, str], Row]]()
CASES = pytest.StashKey[list[str]]()
RESULTS = "--contract-results"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(RESULTS, metavar="FILE", default="", help="write the contract suite's rows to this file")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS], config.stash[CASES] = {}, []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "lab" in metafunc.fixturenames:
        metafunc.parametrize("lab", table.TARGETS, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take out what is not offered, as rows that say so."""
    rows = [(item, *_row_of(item)) for item in items]
    config.stash[CASES] = list(dict.fromkeys(case for _, case, _ in rows))
    for item, case, target in rows:
        reason = table.not_offered(target).get(case) if target else None
        if reason is not None:
            config.stash[ROWS][case, target] = Row(case=case, target=target, outcome=table.NOT_OFFERED, reason=reason)
            items.remove(item)
            config.hook.pytest_deselected(items=[item])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note how a case came out; what failed before or after it counts, and so does a skip."""
    report = yield
    case, target = _row_of(item)
    if target:
        rows = item.config.stash[ROWS]
        before = rows.get((case, target))
        if before is None or before.outcome == table.PASSED:
            rows[case, target] = _row(case, target, report, call)
    return report


def _row(case: str, target: str, report: pytest.TestReport, call: pytest.CallInfo[None]) -> Row:
    if report.passed:
        return Row(case=case, target=target, outcome=table.PASSED)
    reason = f"{call.excinfo.typename}: {call.excinfo.value}" if call.excinfo else str(report.longrepr)
    return Row(case=case, target=target, outcome=table.FAILED, reason=" ".join(reason.split())[:300])


def _row_of(item: pytest.Item) -> tuple[str, str]:
    """Give the case and target of a test; no target if it is none of the suite's cases."""
    case = getattr(item, "function", None) and getattr(item.function, "case", "")  # type: ignore[attr-defined]
    spec = getattr(item, "callspec", None)
    return (case, spec.params["lab"]) if case and spec else ("", "")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = _in_order(config)
    if rows:
        terminalreporter.section("contract suite")
        terminalreporter.write_line(table.text(rows))


def pytest_sessionfinish(session: pytest.Session) -> None:
    file = session.config.getoption(RESULTS, "")
    if file:
        table.write(_in_order(session.config), session.config.invocation_params.dir / file)


def _in_order(config: pytest.Config) -> list[Row]:
    """Give the rows case by case, in the order of the tests."""
    rows = config.stash[ROWS]
    wanted = ((case, target) for case in config.stash[CASES] for target in table.TARGETS)
    return [rows[row] for row in wanted if row in rows]


@pytest.fixture(scope="session")
def login_sshd(slurm_cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginSshd]:
    """Give the sshd of the cluster's login node."""
    with login_node.running(tmp_path_factory.mktemp("login"), slurm_cluster.environment) as sshd:
        yield sshd


@pytest.fixture
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TargetLab]:
    """Give the lab of one target; whatever a test leaves there is ended."""
    with import_module(f"contract.labs.{request.param}").open_lab(request, tmp_path) as opened:
        yield opened
