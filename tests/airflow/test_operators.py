"""Operators as DAG authors and the scheduler see them: parameters, templates, serialization, mapping."""

from __future__ import annotations

import inspect
import json
import re
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator
from airflow.serialization.serialized_objects import DagSerialization

from muster.core.job import Mount, Roles
from muster.launchers import launcher_of
from muster.operators.build_image import BuildTrainingImageOperator
from muster.operators.job import EnvironmentParameters, JobOperator
from muster.operators.mpi import DistributedMPIOperator
from muster.operators.pytorch import PyTorchTrainOperator
from muster.operators.register import RegisterModelOperator
from muster.operators.request import requested_job
from muster.operators.tensorflow import TensorFlowTrainOperator
from muster.operators.train import TrainOperator
from muster.request.configurations import MpiConfiguration, PyTorchConfiguration, TensorflowConfiguration
from muster.request.training_job import PARAMETERS

ANYTHING: dict[str, Any] = {
    "entry_script": "train.py",
    "script_params": {"--text": "a b 'c' \"d\" $e\nü", "--flag": ""},
    "environment_variables": {"A": ""},
    "resources_per_node": {"gpus": 1, "memory": "4g"},
    "compute_target": {"type": "local", "root": "/x y"},
    "distributed_training": PyTorchConfiguration("Gloo", node_count=2),
    "node_count": "{{ params.n }}",
    "secrets": {"TOKEN": "variable:token"},
    "tags": {"a": "b"},
}


OWN_PARAMETERS: dict[type[BaseOperator], set[str]] = {
    operator: set(inspect.signature(operator.__init__).parameters) - {"self", "kwargs"}
    for operator in (
        EnvironmentParameters,
        JobOperator,
        PyTorchTrainOperator,
        TensorFlowTrainOperator,
        DistributedMPIOperator,
        BuildTrainingImageOperator,
    )
}


def test_every_parameter_of_a_job_is_one_of_the_operator_and_a_template() -> None:
    spelled = [name for own in OWN_PARAMETERS.values() for name in own]
    assert sorted(spelled) == sorted({*PARAMETERS, "deferrable"})
    for operator in (TrainOperator, *OWN_PARAMETERS):
        inherited = set().union(*(own for owner, own in OWN_PARAMETERS.items() if issubclass(operator, owner)))
        assert sorted(operator.template_fields) == sorted(inherited - {"deferrable"}), operator


def test_every_parameter_is_documented() -> None:
    for operator, own in OWN_PARAMETERS.items():
        assert sorted(re.findall(r":param (\w+):", operator.__doc__ or "")) == sorted(own), operator


@pytest.mark.parametrize(
    ("operator", "foreign"),
    [
        (TensorFlowTrainOperator, {"elastic": (1, 2)}),
        (PyTorchTrainOperator, {"worker_count": 1}),
        (TrainOperator, {"chief": True}),
        (PyTorchTrainOperator, {"mpi_arguments": ["-v"]}),
        (BuildTrainingImageOperator, {"node_count": 2}),
    ],
)
def test_a_parameter_of_another_framework_is_refused_when_the_dag_is_parsed(
    operator: type[BaseOperator], foreign: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match=next(iter(foreign))):
        operator(task_id="task", **foreign)
    with DAG("foreign", schedule=None), pytest.raises(TypeError, match=next(iter(foreign))):
        operator.partial(task_id="mapped", **foreign).expand(pip_packages=[["a"], ["b"]])


@pytest.mark.parametrize(
    ("operator", "framework"),
    [
        (TrainOperator, "any"),
        (PyTorchTrainOperator, "pytorch"),
        (TensorFlowTrainOperator, "tensorflow"),
        (DistributedMPIOperator, "mpi"),
    ],
)
def test_every_operator_says_its_framework(operator: type[TrainOperator], framework: str) -> None:
    assert requested_job(operator(task_id="train", command=["x"], store="s3://b")).framework == framework


CLASSIC: dict[str, tuple[type[TrainOperator], dict[str, Any]]] = {
    "horovod": (TensorFlowTrainOperator, {"node_count": 2, "process_count_per_node": 1, "distributed_backend": "mpi"}),
    "horovod_object": (TensorFlowTrainOperator, {"distributed_training": MpiConfiguration(node_count=2)}),
    "servers": (
        TensorFlowTrainOperator,
        {"node_count": 2, "distributed_training": TensorflowConfiguration(worker_count=2, parameter_server_count=1)},
    ),
    "single": (TensorFlowTrainOperator, {"pip_packages": ["scikit-learn"]}),
    "keras": (TensorFlowTrainOperator, {"pip_packages": ["keras==3.12.0"]}),
    "mpi": (DistributedMPIOperator, {"node_count": 3, "mpi_arguments": ["--report-bindings"], "mounts": ["/data:/data"]}),
}


@pytest.mark.parametrize("name", CLASSIC)
def test_classic_shapes_survive_serialization_and_mapping(name: str) -> None:
    operator, parameters = CLASSIC[name]
    known: dict[str, Any] = {"entry_script": "train.py", "store": "s3://b", **parameters}
    with DAG(f"classic_{name}", schedule=None) as dag:
        once = operator(task_id="once", **known)
        operator.partial(task_id="mapped", **known).expand(script_params=[{"--lr": "0.1"}, {"--lr": "0.2"}])
    again = round_trip(dag)
    assert again.task_dict["mapped"].is_mapped
    assert set(again.task_dict["once"].template_fields) == set(operator.template_fields)
    assert launcher_of(requested_job(once)).name == ("mpi" if name in ("horovod", "horovod_object", "mpi") else "tensorflow")


def test_object_forms_can_be_mapped_over() -> None:
    with DAG("mapped_forms", schedule=None) as dag:
        TensorFlowTrainOperator.partial(task_id="train", entry_script="train.py", node_count=2).expand(
            distributed_training=[TensorflowConfiguration(2, 1), MpiConfiguration(node_count=2)]
        )
    assert round_trip(dag).task_dict["train"].is_mapped


def test_counts_and_lists_are_templates() -> None:
    operator = TensorFlowTrainOperator(
        task_id="train",
        entry_script="train.py",
        store="s3://b",
        distributed_backend="{{ backend }}",
        node_count="{{ n }}",
        worker_count="{{ n }}",
        chief="{{ false }}",
        evaluator="{{ n > 1 }}",
        shm_size="{{ n }}g",
        mounts=["/data/{{ ds }}:/data:rw"],
        apt_packages=["{{ apt }}"],
        docker_arguments=["--ulimit", "memlock={{ n }}"],
    )
    operator.render_template_fields({"n": 2, "backend": "PS", "ds": "2030-01-01", "apt": "git"})  # type: ignore[typeddict-unknown-key]
    job = requested_job(operator)
    assert job.roles == Roles(workers=2, servers=1, evaluator=True)
    assert (job.shm_size, job.docker_arguments) == (2 << 30, ("--ulimit", "memlock=2"))
    assert job.mounts == (Mount(source="/data/2030-01-01", target="/data", read_only=False),)
    assert job.environment.apt_packages == ("git",)


def test_elastic_bounds_are_templates_and_survive_serialization() -> None:
    known: dict[str, Any] = {"entry_script": "train.py", "store": "s3://b", "distributed_backend": "gloo"}
    with DAG("elastic", schedule=None) as dag:
        train = PyTorchTrainOperator(task_id="train", elastic=("{{ least }}", "{{ least + 2 }}"), **known)
        PyTorchTrainOperator.partial(task_id="mapped", **known).expand(elastic=[(1, 2), "2:3"])
    again = round_trip(dag)
    assert again.task_dict["mapped"].is_mapped
    train.render_template_fields({"least": 2})  # type: ignore[typeddict-unknown-key]
    job = requested_job(train)
    assert (job.min_node_count, job.node_count) == (2, 4)
    assert launcher_of(job).name == "torchrun"


def test_operators_survive_serialization() -> None:
    with DAG("serialized", schedule=None) as dag:
        train = PyTorchTrainOperator(task_id="train", **ANYTHING)
        RegisterModelOperator(task_id="register", model_name="m", run=train.output)
    again = round_trip(dag)
    assert again.task_dict["register"].upstream_task_ids == {"train"}
    assert set(again.task_dict["train"].template_fields) == set(PyTorchTrainOperator.template_fields)
    assert again.task_dict["train"].operator_extra_links[0].name == "Run outputs"


def test_mapped_operators_survive_serialization() -> None:
    once = {name: value for name, value in ANYTHING.items() if name != "resources_per_node"}
    with DAG("mapped_definition", schedule=None) as dag:
        PyTorchTrainOperator.partial(task_id="train", **once).expand(resources_per_node=[{"gpus": 1}, {"memory": "4g"}])
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
