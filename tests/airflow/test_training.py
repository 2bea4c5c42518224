"""Whole tasks, from the DAG to the store: both wait modes, templates, mapping, secrets, retries, clears, failures, events."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from air import Air
from airflow.sdk import DAG, Asset

from muster.operators.pytorch import PyTorchTrainOperator
from muster.operators.register import RegisterModelOperator
from muster.operators.train import RUN_KEY, TrainOperator
from store_server import pieces_of

HELLO = """
import os
from muster.tracking import Run
print('hello of', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'])
if os.environ['RANK'] == '0':
    Run.get_context().log('accuracy', 0.97)
    open('outputs/model.pt', 'w').write('model')
"""
MODES = pytest.mark.parametrize("deferrable", [False, True], ids=["inline", "deferred"])


@MODES
def test_a_task_trains_and_shows_rank_0(deferrable: bool, air: Air) -> None:
    with DAG(f"trains_{deferrable}", schedule=None) as dag:
        PyTorchTrainOperator(
            task_id="train",
            entry_script=air.script(HELLO),
            node_count="{{ params.n }}",
            params={"n": 2},
            distributed_backend="gloo",
            deferrable=deferrable,
            **air.parameters,
        )
    dag_run = air.run(dag)
    assert dag_run.state == "success"
    given = air.returned(dag_run)
    assert (given["state"], given["generation"], given["attempt"]) == ("Completed", 1, 1)
    assert given["metrics"] == {"accuracy": 0.97}
    assert "[rank 0] hello of 0 of 2" in air.log
    assert "hello of 1" not in air.log
    assert f"run {given['run']} is Completed" in air.log
    assert air.returned(dag_run, key=RUN_KEY)["run"] == given["run"]
    link = f"{air.store.access.endpoint_url}/{given['uri'].removeprefix('s3://')}/outputs/"
    assert air.returned(dag_run, key="_link_OutputsLink") == link


def test_a_mapped_task_is_a_run_for_each_value(air: Air) -> None:
    script = air.script("import sys\nprint('rate', sys.argv[2])\nopen('outputs/rate', 'w').write(sys.argv[2])\n")
    with DAG("mapped", schedule=None) as dag:
        TrainOperator.partial(task_id="train", entry_script=script, deferrable=True, **air.parameters).expand(
            script_params=[{"--lr": "0.1"}, {"--lr": "0.2"}]
        )
    dag_run = air.run(dag)
    assert dag_run.state == "success"
    runs = [air.returned(dag_run, map_index=index)["run"] for index in range(2)]
    assert [read(air, run, "outputs/rate") for run in runs] == ["0.1", "0.2"]


def test_a_secret_reaches_the_ranks_and_nothing_else(air: Air, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"TOKEN": "s3cr3t-of-a-variable", "PASSWORD": "s3cr3t-of-a-connection", "KEY": "s3cr3t-of-an-extra"}
    monkeypatch.setenv("AIRFLOW_VAR_HF_TOKEN", values["TOKEN"])
    monkeypatch.setenv("AIRFLOW_CONN_VAULT", f"http://user:{values['PASSWORD']}@host/?key={values['KEY']}")
    script = air.script(
        "import hashlib, os\nfor name in ('TOKEN', 'PASSWORD', 'KEY'):\n"
        "    print(name, hashlib.sha256(os.environ[name].encode()).hexdigest())\n"
    )
    with DAG("secrets", schedule=None) as dag:
        TrainOperator(
            task_id="train",
            entry_script=script,
            secrets={"TOKEN": "variable:HF_TOKEN", "PASSWORD": "vault", "KEY": "connection:vault.extra.key"},
            **air.parameters,
        )
    dag_run = air.run(dag)
    assert dag_run.state == "success"
    for name, value in values.items():
        assert f"[rank 0] {name} {hashlib.sha256(value.encode()).hexdigest()}" in air.log
    for place, content in everything_kept(air, dag_run).items():
        assert b"s3cr3t" not in content, place


def test_a_failed_attempt_is_followed_by_the_next_of_the_same_generation(air: Air) -> None:
    script = air.script("import os, sys\nsys.exit(0 if os.environ['MUSTER_ATTEMPT'] == '2' else 7)\n")
    with DAG("retried", schedule=None) as dag:
        TrainOperator(task_id="train", entry_script=script, retries=1, retry_delay=0, **air.parameters)
    dag_run = air.run(dag)
    assert dag_run.state == "success"
    given = air.returned(dag_run)
    assert (given["generation"], given["attempt"]) == (1, 2)
    assert "rank 0 on node 0" in first_error_line(air.log)
    assert "(exit 7)" in first_error_line(air.log)


def test_a_cleared_successful_task_trains_anew(air: Air) -> None:
    script = air.script("print('trained')\n")
    with DAG("cleared", schedule=None) as dag:
        TrainOperator(task_id="train", entry_script=script, retries=1, **air.parameters)
    dag_run = air.run(dag)
    first = air.returned(dag_run)
    air.clear_and_run(dag, dag_run, "train")
    second = air.returned(dag_run)
    assert (first["run"], first["generation"]) == (second["run"], 1)
    assert second["generation"] == 2
    assert "[rank 0] trained" in air.log


@MODES
def test_the_first_line_of_the_error_names_node_rank_and_exception(deferrable: bool, air: Air) -> None:
    script = air.script("import os, time\nif os.environ['RANK'] == '1':\n    raise ValueError('bad data')\ntime.sleep(600)\n")
    with DAG(f"fails_{deferrable}", schedule=None) as dag:
        PyTorchTrainOperator(
            task_id="train",
            entry_script=script,
            node_count=2,
            distributed_backend="gloo",
            deferrable=deferrable,
            grace_seconds=1,
            **air.parameters,
        )
    dag_run = air.run(dag)
    assert dag_run.state == "failed"
    line = first_error_line(air.log)
    assert "rank 1 on node 1" in line
    assert "ValueError: bad data" in line
    assert "[rank 1] Traceback (most recent call last):" in air.log


def test_a_killed_rank_is_named_with_its_signal(air: Air) -> None:
    script = air.script("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    with DAG("killed_rank", schedule=None) as dag:
        TrainOperator(task_id="train", entry_script=script, node_count=1, **air.parameters)
    assert air.run(dag).state == "failed"
    assert "signal 9 SIGKILL" in first_error_line(air.log)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"node_count": "{{ 0 }}"}, "node_count"),
        ({"entry_script": "missing.py"}, "missing.py"),
        ({"compute_target": "no_such_connection"}, "no_such_connection"),
        ({"store": "s3://no-such-bucket/x"}, "no-such-bucket"),
        ({"secrets": {"A": "variable:NO_SUCH_VARIABLE"}}, "NO_SUCH_VARIABLE"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_request_is_refused_and_not_retried(wrong: dict[str, Any], named: str, air: Air) -> None:
    parameters = {**air.parameters, "entry_script": air.script("print('x')\n"), **wrong}
    with DAG(f"wrong_{next(iter(wrong))}", schedule=None) as dag:
        TrainOperator(task_id="train", retries=3, retry_delay=0, **parameters)
    dag_run = air.run(dag)
    [ti] = dag_run.get_task_instances()
    assert (dag_run.state, ti.try_number) == ("failed", 1)
    assert named in first_error_line(air.log, kind="AirflowFailException")
    assert not list(air.target.root.glob("jobs/*/claim.json"))


def test_a_passed_deadline_ends_the_run_and_the_task(air: Air) -> None:
    script = air.script("import time\nprint('started', flush=True)\ntime.sleep(600)\n")
    with DAG("deadline", schedule=None) as dag:
        TrainOperator(
            task_id="train",
            entry_script=script,
            max_run_duration_seconds="3",
            grace_seconds=1,
            deferrable=True,
            **air.parameters,
        )
    assert air.run(dag).state == "failed"
    assert "max_run_duration_seconds" in first_error_line(air.log, kind="AirflowTaskTimeout")


def test_a_run_is_registered_once_and_its_asset_event_says_what_it_is(air: Air) -> None:
    model, trained = Asset("model-hello"), Asset("run-hello")
    with DAG("registers", schedule=None) as dag:
        train = PyTorchTrainOperator(task_id="train", entry_script=air.script(HELLO), outlets=[trained], **air.parameters)
        first = RegisterModelOperator(
            task_id="first", model_name="hello", run=train.output, tags={"why": "test"}, outlets=[model]
        )
        second = RegisterModelOperator(task_id="second", model_name="hello", run=train.output)
        third = RegisterModelOperator(task_id="third", model_name="hello")
        train >> first >> second
        train >> third
    dag_run = air.run(dag)
    assert dag_run.state == "success"
    run, registered = air.returned(dag_run), air.returned(dag_run, "first")
    assert registered == air.returned(dag_run, "second") == air.returned(dag_run, "third")
    assert registered == {
        "name": "hello",
        "version": 1,
        "uri": run["uri"] + "/outputs",
        "metrics": {"accuracy": 0.97},
        "run": run["run"],
    }
    assert air.event_extra(dag_run, "first") == registered
    assert air.event_extra(dag_run, "train") == {name: run[name] for name in ("run", "metrics", "uri", "digest")}


def first_error_line(log: str, kind: str = "AirflowException") -> str:
    """Return the first line of the exception that failed the first try."""
    return next(line for line in log.splitlines() if f"{kind}: " in line)


def read(air: Air, run: str, path: str) -> str:
    """Return the content of a run's file."""
    return b"".join(pieces_of(air.store.open(), run, path)).decode()


def everything_kept(air: Air, dag_run: Any) -> dict[str, bytes]:
    """Return all that Airflow, the store and the target keep of a DAG run: log, XComs, rendered fields, objects, files."""
    bucket = air.store.open().bucket
    kept = {f"object {key}": b"".join(bucket.chunks(key)) for key in bucket.keys("")}
    kept |= {str(path): path.read_bytes() for path in air.target.root.glob("jobs/**/*") if path.is_file()}
    return {**kept, "log": air.log.encode(), "database": air.database_rows(dag_run).encode()}
