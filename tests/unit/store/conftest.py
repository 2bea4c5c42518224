"""Fixtures for tests of the store: nodes with a sync process, ended with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.node.sync_commands import CheckStore
from store_server import Store
from sync_process import SyncNode

MakeNode = Callable[..., SyncNode]


@pytest.fixture
def make_node(store: Store, tmp_path: Path) -> Iterator[MakeNode]:
    """Make nodes of runs in the test's store; their processes are ended with the test."""
    made: list[SyncNode] = []

    def make(**fields: Any) -> SyncNode:
        defaults = {"folder": tmp_path / f"node {len(made)}", "uri": store.uri, "access": store.access}
        made.append(SyncNode(**{**defaults, **fields}))
        return made[-1]

    yield make
    for node in made:
        node.kill()


@pytest.fixture
def node(make_node: MakeNode) -> SyncNode:
    """Return a node whose sync process runs and has checked the store."""
    made = make_node().start()
    made.call(CheckStore())
    return made
