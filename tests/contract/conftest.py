"""Fixtures of the contract suites: a lab with the real local target, and one with a real Docker engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docker_lab import DockerLab
from engine import DockerStore
from lab import Lab
from store_server import Store

if TYPE_CHECKING:
    from docker import DockerClient


@pytest.fixture
def lab(tmp_path: Path, store: Store) -> Iterator[Lab]:
    """A local target in a folder of its own; whatever a test leaves running is ended."""
    lab = Lab(root=tmp_path / "machine", store=store)
    yield lab
    lab.close()


@pytest.fixture
def docker_lab(engine: DockerClient, base_image: str, docker_store: DockerStore) -> Iterator[DockerLab]:
    """A Docker target on the engine of the tests; whatever a test leaves there is removed."""
    lab = DockerLab(engine=engine, store=docker_store, base_image=base_image)
    yield lab
    lab.close()
