"""Operators as DAG authors and the scheduler see them: parameters, templates, serialization, mapping."""

from __future__ import annotations

import inspect
import json
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization

from muster.core.configurations import PyTorchConfiguration
from muster.core.request import PARAMETERS
from muster.operators.pytorch import PyTorchTrainOperator
from muster.operators.register import RegisterModelOperator
from muster.operators.request import ATTRIBUTES, requested_job
from muster.operators.train import TrainOperator

ANYTHING: dict[str, Any] = {
    "entry_script": "train.py",
    "script_params": {"--text": "a b 'c' \"d\" $e\nü", "--flag": ""},
    "environment_variables": {"A": ""},
    "resources": {"gpus": 1, "memory": "4g"},
    "compute_target": {"type": "local", "root": "/x y"},
    "distributed_training": PyTorchConfiguration("Gloo", node_count=2),
    "node_count": "{{ params.n }}",
    "secrets": {"TOKEN": "variable:token"},
    "tags": {"a": "b"},
}


def test_every_parameter_of_a_job_is_one_of_the_operator_and_a_template() -> None:
    signature = set(inspect.signature(TrainOperator.__init__).parameters) - {"self", "kwargs", "deferrable"}
    assert signature == set(PARAMETERS) - {"framework"} == set(ATTRIBUTES)
    assert set(ATTRIBUTES.values()) == set(TrainOperator.template_fields)


def test_every_parameter_is_documented() -> None:
    documented = inspect.getdoc(TrainOperator) or ""
    assert [name for name in (*ATTRIBUTES, "deferrable") if f":param {name}:" not in documented] == []


def test_operators_survive_serialization() -> None:
    with DAG("serialized", schedule=None) as dag:
        train = PyTorchTrainOperator(task_id="train", **ANYTHING)
        RegisterModelOperator(task_id="register", model_name="m", run=train.output)
    again = round_trip(dag)
    assert again.task_dict["register"].upstream_task_ids == {"train"}
    assert set(again.task_dict["train"].template_fields) == set(TrainOperator.template_fields)
    assert again.task_dict["train"].operator_extra_links[0].name == "Run outputs"


def test_mapped_operators_survive_serialization() -> None:
    once = {name: value for name, value in ANYTHING.items() if name != "resources"}
    with DAG("mapped_definition", schedule=None) as dag:
        PyTorchTrainOperator.partial(task_id="train", **once).expand(resources=[{"gpus": 1}, {"memory": "4g"}])
    assert round_trip(dag).task_dict["train"].is_mapped


@pytest.mark.parametrize(("own", "expected"), [(None, 60.0), ("30", 30.0), (90, 60.0)])
def test_the_deadline_is_the_earlier_of_the_two(own: Any, expected: float) -> None:
    limit = timedelta(minutes=1)
    operator = TrainOperator(
        task_id="train", command=["x"], store="s3://b", max_run_duration_seconds=own, execution_timeout=limit
    )
    assert requested_job(operator).max_run_duration_seconds == expected


def test_making_an_operator_checks_nothing() -> None:
    TrainOperator(task_id="train", node_count="{{ none }}", entry_script="../outside", command=["x"])


@pytest.mark.parametrize("field", ["node_count", "store", "script_params", "tags"])
def test_templates_are_rendered_in_all_fields(field: str) -> None:
    nested = field in ("script_params", "tags")
    operator = TrainOperator(task_id="train", **{field: {"key": "{{ value }}"} if nested else "{{ value }}"})
    operator.render_template_fields({"value": "rendered"})  # type: ignore[arg-type]
    assert getattr(operator, field) == ({"key": "rendered"} if nested else "rendered")


def round_trip(dag: DAG) -> Any:
    """Serialize a DAG as its processor does, and read it as the scheduler does."""
    return DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
