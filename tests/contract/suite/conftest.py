"""The contract suite: every test here is a case, run on every target; what came out is shown as one table.

A case that a target does not offer, by the table in the target's docstring, is not run there and is a row with that reason;
``contract_report`` shows the rows.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import pytest

from contract.labs import login_node
from contract.labs.login_node import LoginSshd
from contract.suite import table
from contract.suite.table import Row
from contract.suite.target_lab import TargetLab
from contract_report import PROPERTY
from slurm_cluster import SlurmCluster


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "lab" in metafunc.fixturenames:
        metafunc.parametrize("lab", table.TARGETS, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take out what is not offered; the report shows it as rows that say so."""
    for item in list(items):
        case, target = _row_of(item)
        if target and case in table.not_offered(target):
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
        report.user_properties.append((PROPERTY, asdict(_row(case, target, report, call))))
    return report


def _row(case: str, target: str, report: pytest.TestReport, call: pytest.CallInfo[None]) -> Row:
    if report.passed:
        return Row(case=case, target=target, outcome=table.PASSED)
    reason = f"{call.excinfo.typename}: {call.excinfo.value}" if call.excinfo else str(report.longrepr)
    return Row(case=case, target=target, outcome=table.FAILED, reason=" ".join(reason.split())[:300])


def _row_of(item: pytest.Item) -> tuple[str, str]:
    """Return the case and target of a test; no target if it is none of the suite's cases."""
    case = getattr(item, "function", None) and getattr(item.function, "case", "")  # type: ignore[attr-defined]
    spec = getattr(item, "callspec", None)
    return (case, spec.params["lab"]) if case and spec else ("", "")


@pytest.fixture(scope="session")
def login_sshd(slurm_cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginSshd]:
    """Yield the sshd of the cluster's login node."""
    with login_node.running(tmp_path_factory.mktemp("login"), slurm_cluster.environment) as sshd:
        yield sshd


@pytest.fixture
def whole(request: pytest.FixtureRequest, full: bool) -> bool:
    """Return whether a case of volume has its whole volume: on one target, or on each in a full run."""
    case, target = _row_of(request.node)
    return full or table.WHOLE_ON[case] == target


@pytest.fixture
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TargetLab]:
    """Yield the lab of one target; whatever a test leaves there is ended."""
    with import_module(f"contract.labs.{request.param}").open_lab(request, tmp_path) as opened:
        yield opened
