"""Models registered in MLflow by a task: the connection, the operator, and that no credential is kept anywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from air import Air
from airflow.sdk import DAG

from mlflow_server import PASSWORD, USER, RunningMlflow
from muster.core.errors import RequestError
from muster.hooks.mlflow import MlflowHook
from muster.operators.register import RegisterModelOperator
from muster.operators.train import TrainOperator
from muster.registry import open_registry
from muster.registry.mlflow_server import MlflowServer

TRAIN = """
from muster.tracking import Run
Run.get_context().log('accuracy', 0.97)
open('outputs/model.pt', 'w').write('model')
"""


def connect(monkeypatch: pytest.MonkeyPatch, name: str = "test_mlflow", **fields: Any) -> None:
    """Make an Airflow connection."""
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({"conn_type": "http", **fields}))


def connect_to(server: RunningMlflow, monkeypatch: pytest.MonkeyPatch, password: str = PASSWORD) -> None:
    host, _, port = server.tracking_uri.removeprefix("http://").partition(":")
    connect(monkeypatch, host=host, port=int(port), login=USER, password=password)


def test_a_run_is_registered_in_mlflow_once(air: Air, mlflow_server: RunningMlflow, monkeypatch: pytest.MonkeyPatch) -> None:
    connect_to(mlflow_server, monkeypatch)
    model = {"model_name": "hello", "registry": "mlflow", "mlflow_conn_id": "{{ params.conn }}"}
    with DAG("registers_in_mlflow", schedule=None, params={"conn": "test_mlflow"}) as dag:
        train = TrainOperator(task_id="train", entry_script=air.script(TRAIN), **air.parameters)
        first = RegisterModelOperator(task_id="first", run=train.output, tags={"why": "test"}, **model)
        first >> RegisterModelOperator(task_id="second", run=train.output, **model)
    dag_run = air.run(dag)
    assert dag_run.state == "success"
    run, registered = air.returned(dag_run), air.returned(dag_run, "first")
    assert registered == air.returned(dag_run, "second")
    assert (registered["name"], registered["version"], registered["run"]) == ("hello", 1, run["run"])
    assert (registered["uri"], registered["metrics"]) == (run["uri"] + "/outputs", {"accuracy": 0.97})
    [version] = open_registry(mlflow_server.config, air.store.open()).versions("hello")
    assert (version.uri, version.tags) == (registered["uri"], {"why": "test"})
    assert PASSWORD not in air.log + air.database_rows(dag_run)


def test_a_wrong_password_fails_in_one_line_and_is_not_shown(
    air: Air, mlflow_server: RunningMlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect_to(mlflow_server, monkeypatch, password="n0t-the-password")
    with DAG("refused_by_mlflow", schedule=None) as dag:
        train = TrainOperator(task_id="train", entry_script=air.script(TRAIN), **air.parameters)
        RegisterModelOperator(
            task_id="register", model_name="hello", run=train.output, registry="mlflow", mlflow_conn_id="test_mlflow"
        )
    dag_run = air.run(dag)
    assert dag_run.state == "failed"
    assert f"AirflowException: mlflow server {mlflow_server.tracking_uri} refuses the user '{USER}'" in air.log
    assert "n0t-the-password" not in air.log + air.database_rows(dag_run)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"registry": "moon"}, "unknown registry 'moon'"),
        ({"mlflow_conn_id": "test_mlflow"}, "mlflow_conn_id is for registry='mlflow'"),
        ({"registry": "mlflow", "mlflow_conn_id": "nowhere"}, "no airflow connection 'nowhere'"),
        ({"registry": "mlflow"}, "set MLFLOW_TRACKING_URI"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_registry_is_refused_and_not_retried(wrong: dict[str, Any], named: str, air: Air) -> None:
    run = {"run": "r", "generation": 1, "store": air.store.uri, "aws_conn_id": "test_store"}
    commit(air)
    with DAG(f"wrong_registry_{'_'.join(wrong)}", schedule=None) as dag:
        RegisterModelOperator(task_id="register", model_name="hello", run=run, retries=3, retry_delay=0, **wrong)
    dag_run = air.run(dag)
    [ti] = dag_run.get_task_instances()
    assert (dag_run.state, ti.try_number) == ("failed", 1)
    assert named in next(line for line in air.log.splitlines() if "AirflowFailException: " in line)


def commit(air: Air) -> None:
    """Put a committed run into the store."""
    from muster.core.manifest import Manifest, ManifestFile

    file = ManifestFile(path="outputs/model.pt", size=1, sha256="0" * 64, key="k")
    air.store.open().commit(Manifest(run="r", generation=1, attempt=1, uri=f"{air.store.uri}/runs/r/g1", files=(file,)))


@pytest.mark.parametrize(
    ("fields", "server"),
    [
        ({"host": "m.org", "port": 5000}, MlflowServer(tracking_uri="http://m.org:5000")),
        ({"host": "m.org", "schema": "https"}, MlflowServer(tracking_uri="https://m.org")),
        ({"host": "https://m.org/mlflow/", "conn_type": "generic"}, MlflowServer(tracking_uri="https://m.org/mlflow")),
        ({"host": "m.org", "conn_type": "https"}, MlflowServer(tracking_uri="https://m.org")),
        (
            {"host": "m.org", "login": "u", "password": "p w", "extra": {"verify": False}},
            MlflowServer(tracking_uri="http://m.org", username="u", password="p w", verify=False),
        ),
        (
            {"host": "m.org", "extra": {"token": "tkn", "verify": "/ca.pem"}},
            MlflowServer(tracking_uri="http://m.org", token="tkn", verify="/ca.pem"),
        ),
    ],
    ids=str,
)
def test_a_connection_says_where_mlflow_is(
    fields: dict[str, Any], server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, **fields)
    assert MlflowHook("test_mlflow").get_conn() == server


def test_without_a_connection_mlflows_own_variables_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"URI": "http://m.org", "USERNAME": "u", "PASSWORD": "p-of-env"}.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    assert MlflowHook().get_conn() == MlflowServer(tracking_uri="http://m.org", username="u", password="p-of-env")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(RequestError, match="mlflow_conn_id"):
        MlflowHook().get_config()


def test_testing_a_connection_asks_the_server(mlflow_server: RunningMlflow, monkeypatch: pytest.MonkeyPatch) -> None:
    connect_to(mlflow_server, monkeypatch)
    assert MlflowHook("test_mlflow").test_connection()[0]
    connect_to(mlflow_server, monkeypatch, password="wrong-password")
    fine, said = MlflowHook("test_mlflow").test_connection()
    assert not fine
    assert "refuses the user 'tester'" in said
    connect(monkeypatch, conn_type="http")
    assert "has no host" in MlflowHook("test_mlflow").test_connection()[1]
