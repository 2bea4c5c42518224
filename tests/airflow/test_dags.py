"""The example DAGs: they load, are scheduled as they say, and the first of them trains a real model."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from air import Air
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from trained import check, check_configs, example, trained

from frameworks import Frameworks
from muster.targets.local.target import LocalTarget

pytestmark = pytest.mark.timeout(1800)  # PyTorch and TensorFlow are installed
DAGS = Path(__file__).parents[2] / "dags"
Load = Callable[[], DagBag]


@pytest.fixture
def target(frameworks: Frameworks) -> Iterator[LocalTarget]:
    """Yield a local target that keeps its environments; what a job leaves on it is not kept."""
    local = LocalTarget(root=frameworks.root / "local")
    yield local
    shutil.rmtree(local.root / "jobs", ignore_errors=True)


@pytest.fixture
def load(airflow_db: None) -> Load:
    """Return what reads the example DAGs as Airflow does."""
    return lambda: DagBag(dag_folder=str(DAGS), bundle_name="dags-folder")


def test_every_example_loads_and_survives_serialization(load: Load) -> None:
    bag = load()
    assert bag.import_errors == {}
    assert set(bag.dags) == {
        "train_digits",
        "bring_digits",
        "retrain_on_data",
        "tensorflow_multi_worker",
        "tensorflow_parameter_server",
        "horovod_torch",
        "horovod_tensorflow",
        "mpi_digits",
    }
    for dag in bag.dags.values():
        assert isinstance(dag, DAG)
        again = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
        assert set(again.task_dict) == set(dag.task_dict)
    for file in DAGS.glob("*.py"):
        assert len(file.read_text().splitlines()) <= 40


def test_the_data_says_when_to_train_anew(load: Load, air: Air) -> None:
    bag = load()
    producer, consumer = bag.dags["bring_digits"], bag.dags["retrain_on_data"]
    dag_run = air.run(producer)
    assert dag_run.state == "success"
    assert air.event_extra(dag_run, "bring") == {"digits": 1797}
    assert "name='digits-data'" in repr(consumer.timetable)


def test_train_digits_gives_a_model_that_reads_digits(
    air: Air, monkeypatch: pytest.MonkeyPatch, load: Load, tmp_path: Path
) -> None:
    monkeypatch.setenv("MUSTER_STORE", air.store.uri)
    monkeypatch.setenv("MUSTER_TARGET", "test_target")
    monkeypatch.setenv("MUSTER_AWS_CONN_ID", "test_store")
    dag_run = air.run(load().dags["train_digits"])
    assert dag_run.state == "success"
    registered = air.returned(dag_run, "register")
    assert (registered["name"], registered["version"]) == ("digits", 1)
    assert registered["metrics"]["accuracy"] >= 0.95
    [model] = air.store.open().download(registered["run"], "outputs/model.pt", tmp_path)
    record = air.store.open().record(registered["run"])
    assert held_back_accuracy(record, model) == pytest.approx(registered["metrics"]["accuracy"])


def test_tensorflow_trains_on_this_machine(air: Air, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, model, tasks in (
        ("tensorflow_multi_worker", "digits-multi-worker", {"worker": 2}),
        ("tensorflow_parameter_server", "digits-parameter-server", {"ps": 1, "worker": 2}),
    ):
        dag_run = air.run(example(name, monkeypatch, air, "test_target"))
        done = trained(air, dag_run, tmp_path / name)
        check(done, model=model, hashes=2)
        check_configs(done, tasks)


def held_back_accuracy(record: dict[str, Any], model: Path) -> float:
    """Return the accuracy on the held-back digits, read by the environment that trained the model."""
    argv = [record["environment"]["interpreter"], str(DAGS / "digits" / "train.py"), "--evaluate", str(model)]
    environment = {"PYTHONPATH": str(DAGS.parent / "provider")}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True, timeout=300)
    return float(json.loads(done.stdout)["accuracy"])
