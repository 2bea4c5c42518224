"""Fixtures of the contract suites: a lab with the real local target."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from store_server import Store


@pytest.fixture
def lab(tmp_path: Path, store: Store) -> Iterator[Lab]:
    """A local target in a folder of its own; whatever a test leaves running is ended."""
    lab = Lab(root=tmp_path / "machine", store=store)
    yield lab
    lab.close()
