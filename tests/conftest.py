"""Fixtures for every test: a real S3-compatible server, and a fresh store on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlflow_server import RunningMlflow, running
from store_server import Store, StoreServer

pytest_plugins = ["contract_report", "engine", "frameworks", "full", "lanes", "rack", "slurm_cluster", "workshop"]


@pytest.fixture(scope="session")
def store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """Yield a running server; a test that stops it must start it again."""
    server = StoreServer(tmp_path_factory.mktemp("weed"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def store(store_server: StoreServer) -> Store:
    """Return an empty store of the test's own."""
    return Store(uri=store_server.fresh_uri(), access=store_server.access, server=store_server)


@pytest.fixture(scope="session")
def mlflow_session(store_server: StoreServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMlflow]:
    """Yield the one MLflow server of the session; it takes half a minute to start."""
    with running(tmp_path_factory.mktemp("mlflow"), store_server) as server:
        yield server


@pytest.fixture
def mlflow_server(mlflow_session: RunningMlflow) -> RunningMlflow:
    """Return the MLflow server, with nothing registered in it."""
    mlflow_session.empty()
    return mlflow_session
