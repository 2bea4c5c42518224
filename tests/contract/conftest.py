"""Fixtures of the contract suites: labs with the real local target, a real Docker engine, real SSH hosts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docker_lab import DockerLab
from engine import DockerStore
from hosts_lab import HostsLab
from lab import Lab
from rack import Rack
from slurm_cluster import SlurmCluster
from slurm_lab import SlurmLab
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


@pytest.fixture
def hosts_lab(rack: Rack, rack_store: Store) -> Iterator[HostsLab]:
    """An SSH target over the hosts of the rack; whatever a test leaves there is ended, and every host is up again."""
    lab = HostsLab(rack=rack, store=rack_store)
    yield lab
    lab.close()


@pytest.fixture
def slurm_lab(tmp_path: Path, store: Store, slurm_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmLab]:
    """A Slurm target with this machine as its login node; whatever a test leaves in the queue is ended."""
    for name, value in slurm_cluster.environment.items():
        monkeypatch.setenv(name, value)
    lab = SlurmLab(root=tmp_path / "shared", store=store, cluster=slurm_cluster)
    yield lab
    lab.close()
