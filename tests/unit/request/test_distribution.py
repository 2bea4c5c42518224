"""How many, how they talk, and in which roles: counts, backends, the object form, and what doesn't fit."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from muster.core.errors import RequestError
from muster.core.job import Roles, TrainingJob
from muster.request.configurations import KINDS, MpiConfiguration, PyTorchConfiguration, TensorflowConfiguration
from muster.request.training_job import training_job


def job(framework: str, **parameters: Any) -> TrainingJob:
    return training_job({"framework": framework, "entry_script": "x.py", "store": "s3://b", **parameters}, base="/dags")


def refusal(framework: str, **parameters: Any) -> str:
    with pytest.raises(RequestError) as caught:
        job(framework, **parameters)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- backends


@pytest.mark.parametrize(
    ("framework", "backends"),
    [
        ("any", ["gloo", "nccl", "mpi", "ps"]),
        ("pytorch", ["gloo", "nccl", "mpi"]),
        ("tensorflow", ["ps", "nccl", "mpi"]),
        ("mpi", ["mpi"]),
    ],
)
def test_every_framework_has_its_backends(framework: str, backends: list[str]) -> None:
    for backend in backends:
        assert job(framework, node_count=2, distributed_backend=backend.upper()).distributed_backend == backend
    for other in {"gloo", "nccl", "mpi", "ps", "ring"} - set(backends):
        said = refusal(framework, node_count=2, distributed_backend=other)
        assert said.startswith(f"distributed_backend {other!r} is not one of framework {framework!r}, use {backends[0]}")
        assert all(name in said for name in backends)


def test_mpi_needs_no_backend_to_be_said() -> None:
    made = job("mpi", node_count=3)
    assert (made.distributed_backend, made.roles) == ("mpi", Roles())


def test_any_program_may_say_none() -> None:
    assert job("any", node_count=2).distributed_backend is None


@pytest.mark.parametrize("counts", [{"node_count": 2}, {"process_count_per_node": 2}])
def test_several_processes_of_tensorflow_need_a_backend(counts: dict[str, int]) -> None:
    assert refusal("tensorflow", **counts).endswith("set it to ps, nccl or mpi")


def test_mpi_arguments_are_for_mpi(hostile: str) -> None:
    assert job("mpi", mpi_arguments=["--report-bindings", hostile]).mpi_arguments == ("--report-bindings", hostile)
    assert job("pytorch", distributed_backend="mpi", mpi_arguments=["-v"]).mpi_arguments == ("-v",)
    said = refusal("pytorch", node_count=2, distributed_backend="gloo", mpi_arguments=["-v"])
    assert said.startswith("mpi_arguments are for mpirun, but distributed_backend is 'gloo'")


# -- roles


def tensorflow(**parameters: Any) -> Roles:
    return job("tensorflow", **parameters).roles


def test_one_task_of_tensorflow_is_a_worker() -> None:
    assert tensorflow() == Roles(workers=1)
    assert tensorflow(chief="False", evaluator="") == Roles(workers=1)


@pytest.mark.parametrize(
    ("asked", "roles"),
    [
        ({"distributed_backend": "ps"}, Roles(workers=1, servers=1)),
        ({"distributed_backend": "ps", "node_count": 2, "worker_count": "2"}, Roles(workers=2, servers=1)),
        ({"distributed_backend": "ps", "node_count": 2, "worker_count": 2, "parameter_server_count": 0}, Roles(workers=2)),
        ({"distributed_backend": "nccl", "node_count": 2, "process_count_per_node": 2}, Roles(workers=4)),
        ({"distributed_backend": "nccl", "node_count": 2, "chief": "true"}, Roles(workers=1, chief=True)),
        (
            {"distributed_backend": "nccl", "node_count": 2, "worker_count": 1, "evaluator": True},
            Roles(workers=1, evaluator=True),
        ),
        ({"distributed_backend": "nccl", "chief": True}, Roles(workers=0, chief=True)),
    ],
)
def test_roles_have_their_defaults(asked: dict[str, Any], roles: Roles) -> None:
    assert tensorflow(**asked) == roles


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"distributed_backend": "ps", "node_count": 2, "worker_count": 3},
            "3 workers don't fit: node_count 2 x process_count_per_node 1 give 2 slots",
        ),
        (
            {"distributed_backend": "ps", "node_count": 2, "worker_count": 2, "chief": True},
            "3 workers, one of them the chief, don't fit",
        ),
        ({"distributed_backend": "ps", "parameter_server_count": 2}, "2 parameter servers don't fit: node_count 1 x"),
        ({"distributed_backend": "ps", "node_count": 3}, "1 of the nodes would have nothing to do"),
        ({"distributed_backend": "nccl", "node_count": 2, "worker_count": 1}, "1 of the nodes would have nothing to do"),
        ({"distributed_backend": "ps", "worker_count": 0}, "worker_count must be a whole number from 1 on, got 0"),
        ({"distributed_backend": "ps", "worker_count": "x"}, "worker_count must be a whole number from 1 on, got 'x'"),
        ({"distributed_backend": "ps", "parameter_server_count": -1}, "parameter_server_count must be a whole number from 0"),
        ({"distributed_backend": "nccl", "parameter_server_count": 1}, "'nccl' has no servers; use 'ps'"),
        ({"distributed_backend": "mpi", "worker_count": 1}, "distributed_backend 'mpi' has no roles, got worker_count"),
        (
            {"worker_count": 1, "chief": True},
            "worker_count, chief given, but distributed_backend is None; set it to ps or nccl",
        ),
        ({"distributed_backend": "ps", "chief": "maybe"}, "chief must be true or false, got 'maybe'"),
    ],
)
def test_roles_that_do_not_fit_are_refused_with_the_numbers(asked: dict[str, Any], said: str) -> None:
    assert said in refusal("tensorflow", **asked)


@pytest.mark.parametrize("framework", ["any", "pytorch", "mpi"])
@pytest.mark.parametrize("role", ["worker_count", "parameter_server_count", "chief", "evaluator"])
def test_other_frameworks_have_no_roles(framework: str, role: str) -> None:
    assert f"framework {framework!r} has no roles, got {role}" in refusal(framework, **{role: "1"})
    assert job(framework, chief=False, evaluator="False").roles == Roles()


# -- the object form


@pytest.mark.parametrize(
    ("configuration", "nodes", "processes", "backend"),
    [
        (PyTorchConfiguration(), 1, 1, "nccl"),
        (PyTorchConfiguration(node_count=2), 2, 1, "nccl"),
        (PyTorchConfiguration("Gloo", 4, 2), 2, 2, "gloo"),
        ({"type": "PyTorchConfiguration", "process_count": "6", "node_count": "3"}, 3, 2, "nccl"),
        (MpiConfiguration(), 1, 1, "mpi"),
        (MpiConfiguration(process_count_per_node=4, node_count=2), 2, 4, "mpi"),
        ({"type": "MpiConfiguration", "node_count": "2"}, 2, 1, "mpi"),
    ],
)
def test_the_object_form_says_counts_and_backend(configuration: Any, nodes: int, processes: int, backend: str) -> None:
    made = job("pytorch", distributed_training=configuration, node_count=1, process_count_per_node=1)
    assert (made.node_count, made.process_count_per_node, made.distributed_backend) == (nodes, processes, backend)


@pytest.mark.parametrize(
    "configuration",
    [TensorflowConfiguration(2, 1), {"type": "TensorflowConfiguration", "worker_count": "2", "parameter_server_count": 1}],
)
def test_tensorflows_object_form_says_its_roles(configuration: Any) -> None:
    made = job("tensorflow", distributed_training=configuration, node_count=2)
    assert (made.distributed_backend, made.roles) == ("ps", Roles(workers=2, servers=1))


@pytest.mark.parametrize("framework", ["any", "pytorch", "tensorflow", "mpi"])
def test_mpi_goes_with_every_framework(framework: str) -> None:
    made = job(framework, distributed_training=MpiConfiguration(node_count=2))
    assert (made.node_count, made.distributed_backend, made.roles) == (2, "mpi", Roles())


@pytest.mark.parametrize(
    ("configuration", "said"),
    [
        (PyTorchConfiguration(process_count=3, node_count=2), "3 is no multiple of node_count 2"),
        (PyTorchConfiguration(process_count=1, node_count=2), "1 is no multiple of node_count 2"),
        (PyTorchConfiguration(node_count=0), "PyTorchConfiguration.node_count must be a whole number from 1 on, got 0"),
        (PyTorchConfiguration("ps", node_count=2), "distributed_backend 'ps' is not one of framework 'pytorch'"),
        (MpiConfiguration(node_count=0), "node_count must be a whole number from 1 on, got 0"),
        (TensorflowConfiguration(), "TensorflowConfiguration does not go with framework 'pytorch'"),
        ("gloo", "must be one of MpiConfiguration, TensorflowConfiguration, PyTorchConfiguration, got 'gloo' of type str"),
        ({"type": "PyTorchConfiguration", "nodes": 2}, "nodes"),
        ({"type": "RayConfiguration"}, "must be one of"),
    ],
)
def test_a_wrong_object_form_is_refused(configuration: Any, said: str) -> None:
    assert said in refusal("pytorch", distributed_training=configuration)


@pytest.mark.parametrize("framework", ["any", "tensorflow", "mpi"])
def test_pytorchs_form_is_for_pytorch(framework: str) -> None:
    assert f"does not go with framework {framework!r}" in refusal(framework, distributed_training=PyTorchConfiguration())


@pytest.mark.parametrize(
    ("framework", "parameters", "said"),
    [
        ("pytorch", {"node_count": 3, "distributed_training": PyTorchConfiguration(node_count=2)}, "node_count is 3, but"),
        (
            "pytorch",
            {"distributed_backend": "gloo", "distributed_training": MpiConfiguration()},
            "MpiConfiguration implies 'mpi'",
        ),
        (
            "tensorflow",
            {"worker_count": 1, "distributed_training": TensorflowConfiguration(2)},
            "TensorflowConfiguration implies 2",
        ),
        ("tensorflow", {"distributed_backend": "nccl", "distributed_training": TensorflowConfiguration()}, "implies 'ps'"),
    ],
)
def test_the_object_form_and_the_plain_one_must_not_contradict(framework: str, parameters: dict[str, Any], said: str) -> None:
    assert said in refusal(framework, **parameters)


def test_the_object_form_and_the_plain_one_may_agree() -> None:
    form = PyTorchConfiguration(node_count=2)
    assert job("pytorch", distributed_training=form, node_count=2, distributed_backend="NCCL").node_count == 2


@pytest.mark.parametrize("kind", KINDS.values())
def test_configurations_survive_serialization(kind: Any) -> None:
    value = kind(node_count=3) if "node_count" in {f.name for f in dataclasses.fields(kind)} else kind(worker_count=3)
    data = json.loads(json.dumps(value.serialize()))
    assert data["type"] == kind.__name__
    assert kind.deserialize(data, kind.__version__) == value
    with pytest.raises(ValueError, match="can't read version 9"):
        kind.deserialize(data, 9)


# -- the four classic shapes


def test_horovod_on_two_nodes_of_one() -> None:
    made = job("tensorflow", node_count=2, process_count_per_node=1, distributed_backend="mpi")
    assert (made.world_size, made.distributed_backend) == (2, "mpi")


def test_a_parameter_server_with_two_workers_on_two_nodes() -> None:
    made = job("tensorflow", node_count=2, worker_count=2, parameter_server_count=1, distributed_backend="ps")
    assert made.roles == Roles(workers=2, servers=1)


def test_a_single_node_with_packages() -> None:
    made = job("tensorflow", pip_packages=["scikit-learn"])
    assert (made.world_size, made.environment.packages) == (1, ("tensorflow-cpu", "scikit-learn"))


def test_keras_by_pip_packages() -> None:
    assert job("tensorflow", pip_packages=["keras"]).environment.packages == ("tensorflow-cpu", "keras")
