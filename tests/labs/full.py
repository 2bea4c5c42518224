"""Pytest plugin: ``--full`` runs every test whole; without it tests marked ``full`` are left out, and volumes are smaller."""

from __future__ import annotations

import pytest

OPTION = "--full"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, action="store_true", help="run the tests marked full too, and every volume whole on every target")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for a full run."""
    if not config.getoption(OPTION):
        left_out = [item for item in items if item.get_closest_marker("full")]
        if left_out:
            items[:] = [item for item in items if item not in left_out]
            config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def full(pytestconfig: pytest.Config) -> bool:
    """Return whether this is a full run."""
    return bool(pytestconfig.getoption(OPTION))
