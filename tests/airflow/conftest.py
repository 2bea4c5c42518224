"""Airflow for tests: one home in a temporary folder, set before airflow is first imported, shared by all tests."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from air import Air

from muster.targets.local.target import LocalTarget
from store_server import Store

HOME = Path(tempfile.mkdtemp(prefix="muster-airflow-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

os.environ.update(
    {
        "AIRFLOW_HOME": str(HOME),
        "AIRFLOW__CORE__UNIT_TEST_MODE": "True",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(HOME / "dags"),
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        "AIRFLOW__MUSTER__DEPLOYMENT_ID": f"tests-{os.getpid()}",
    }
)
(HOME / "dags").mkdir()


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """Make the database, once for all tests."""
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[LocalTarget]:
    """Yield a local target of the test's own; whatever a failed test left running on it is ended."""
    local = LocalTarget(root=tmp_path / "target")
    yield local
    for folder in (local.root / "jobs").glob("*"):
        handle = local.find(folder.name)
        local.cancel(handle, handle.generation, "end of the test")


@pytest.fixture
def connections(
    store: Store, target: LocalTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Store, LocalTarget]:
    """Put store and target into connections ``test_store`` and ``test_target``."""
    extra = {"endpoint_url": store.access.endpoint_url, "region_name": "us-east-1"}
    aws = {"conn_type": "aws", "login": store.access.access_key, "password": store.access.secret_key, "extra": extra}
    compute = {"conn_type": "muster", "extra": {"target": "local", "root": str(target.root)}}
    monkeypatch.setenv("AIRFLOW_CONN_TEST_STORE", json.dumps(aws))
    monkeypatch.setenv("AIRFLOW_CONN_TEST_TARGET", json.dumps(compute))
    monkeypatch.setenv("MUSTER_HOME", str(tmp_path / "home"))
    return store, target


@pytest.fixture
def air(airflow_db: None, connections: tuple[Store, LocalTarget], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Air:
    """Return Airflow, ready to run DAGs."""
    source = tmp_path / "source"
    source.mkdir()
    store, target = connections
    return Air(store=store, target=target, source=source, capture=capfd)
