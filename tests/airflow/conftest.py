"""Airflow for tests: one home in a temporary folder, set before airflow is first imported, shared by all tests."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from muster.targets.local import LocalTarget
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


@dataclass
class Air:
    """Airflow with a store, a local target and a folder for a job's code, all of the test's own."""

    store: Store
    target: LocalTarget
    source: Path
    capture: pytest.CaptureFixture[str]
    log: str = ""

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of a train operator that don't matter to a test: where it runs, and with which interpreter."""
        return {
            "store": self.store.uri,
            "aws_conn_id": "test_store",
            "compute_target": "test_target",
            "source_directory": str(self.source),
            "environment": {"interpreter": sys.executable, "user_managed_dependencies": True},
        }

    def script(self, code: str) -> str:
        """Write the script of the job; give its name."""
        (self.source / "train.py").write_text(code)
        return "train.py"

    def sync(self, dag: Any) -> None:
        """Write an in-memory DAG to the database: ``dag.test()`` refuses DAGs that are in no bundle."""
        from airflow.dag_processing.bundles.manager import DagBundlesManager
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

        DagBundlesManager().sync_bundles_to_db()
        bag = DagBag(dag_folder=os.devnull, bundle_name="dags-folder")
        bag.bag_dag(dag)
        sync_bag_to_db(bag, "dags-folder", None)

    def run(self, dag: Any, **options: Any) -> Any:
        """Run an in-memory DAG in this process, triggers included; give the DAG run, and keep the tasks' log."""
        self.sync(dag)
        self.capture.readouterr()
        dag_run = dag.test(**options)
        self.keep_log()
        return dag_run

    def keep_log(self) -> None:
        """Take what was logged since the last look."""
        taken = self.capture.readouterr()
        self.log = taken.out + taken.err
        sys.__stdout__.write(self.log)

    def returned(self, dag_run: Any, task_id: str = "train", map_index: int = -1, key: str = "return_value") -> Any:
        """Give what a task returned, or another XCom of it."""
        [ti] = [ti for ti in dag_run.get_task_instances() if (ti.task_id, ti.map_index) == (task_id, map_index)]
        return ti.xcom_pull(task_ids=task_id, map_indexes=map_index, key=key)


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """Make the database, once for all tests."""
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[LocalTarget]:
    """Give a local target of the test's own; whatever a failed test left running on it is ended."""
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
    """Give Airflow, ready to run DAGs."""
    source = tmp_path / "source"
    source.mkdir()
    store, target = connections
    return Air(store=store, target=target, source=source, capture=capfd)
