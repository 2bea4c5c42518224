"""From parameters to the TrainingJob: what each means, and what is refused in which words."""

from __future__ import annotations

import dataclasses
import json
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from muster.core.codec import canonical, from_data
from muster.core.configurations import KINDS, MpiConfiguration, PyTorchConfiguration, TensorflowConfiguration
from muster.core.errors import RequestError
from muster.core.job import Environment, Resources, TrainingJob
from muster.core.request import ALIASES, NOT_OFFERED, PARAMETERS, training_job

BASE = "/dags"
PLAIN = {"entry_script": "train.py", "store": "s3://bucket/prefix"}
INTERPRETER = {"interpreter": "/opt/python", "user_managed_dependencies": True}


def job(**parameters: Any) -> TrainingJob:
    return training_job({**PLAIN, **parameters}, base=BASE)


def pytorch(**parameters: Any) -> TrainingJob:
    return job(framework="pytorch", **parameters)


def refusal(**parameters: Any) -> str:
    with pytest.raises(RequestError) as caught:
        job(**parameters)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- the whole


def test_what_is_not_said_has_its_default() -> None:
    assert job() == TrainingJob(
        name="train", framework="any", source_directory="/dags", entry_script="train.py", store="s3://bucket/prefix"
    )
    assert job().max_run_duration_seconds == 30 * 24 * 3600


def test_none_is_not_said() -> None:
    assert training_job({**dict.fromkeys(PARAMETERS), **PLAIN}, base=BASE) == job()
    assert training_job({**dict.fromkeys(NOT_OFFERED), **PLAIN}, base=BASE) == job()


def test_a_job_is_plain_data() -> None:
    everything = pytorch(
        node_count=2,
        distributed_backend="gloo",
        pip_packages=["pandas"],
        environment_variables={"A": "1"},
        secrets={"TOKEN": "conn"},
        tags={"team": "x"},
        resources={"memory": "1g"},
    )
    assert from_data(TrainingJob, json.loads(canonical(everything))) == everything


def test_a_base_may_be_a_path(tmp_path: Path) -> None:
    assert training_job(PLAIN, base=tmp_path).source_directory == str(tmp_path)


def test_all_names_are_accepted_or_refused_by_name() -> None:
    assert set(ALIASES) | set(ALIASES.values()) <= set(PARAMETERS)
    assert not set(PARAMETERS) & set(NOT_OFFERED)
    assert len(set(PARAMETERS)) == len(PARAMETERS)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("nodes_count", "node_count"),
        ("enviroment", "environment"),
        ("pip_package", "pip_packages"),
        ("arguements", "arguments"),
    ],
)
def test_an_unknown_parameter_is_refused_with_the_nearest(name: str, near: str) -> None:
    assert refusal(**{name: 1}) == f"unknown parameter {name!r}; did you mean {near!r}?"


def test_an_unknown_parameter_that_is_near_to_nothing_is_refused_with_all() -> None:
    said = refusal(quux=None)
    assert "unknown parameter 'quux'" in said
    assert "node_count" in said


@pytest.mark.parametrize("name", NOT_OFFERED)
def test_a_parameter_of_a_later_release_is_refused_with_what_to_do(name: str) -> None:
    said = refusal(**{name: "x"})
    assert said.startswith(f"{name} is not offered in this release, got 'x'; ")
    assert NOT_OFFERED[name] in said


def test_an_unknown_framework_is_refused_with_those_offered() -> None:
    assert refusal(framework="torch") == "framework 'torch' is not offered in this release; offered: any, pytorch"


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_means_the_same_and_excludes_it(alias: str, name: str) -> None:
    value: Any = PyTorchConfiguration(node_count=2) if name == "distributed_training" else "x.py"
    rest = {key: item for key, item in PLAIN.items() if key != name}
    twice = {**rest, "framework": "pytorch", "command": None if name == "entry_script" else ["x"]}
    if name != "entry_script":
        twice["entry_script"] = None
    assert training_job({**twice, alias: value}, base=BASE) == training_job({**twice, name: value}, base=BASE)
    with pytest.raises(RequestError, match="given twice"):
        training_job({**twice, alias: value, name: value}, base=BASE)


# -- the program


def test_the_source_folder_is_relative_to_the_base() -> None:
    assert job(source_directory="code").source_directory == "/dags/code"
    assert job(source_directory="../code/").source_directory == "/code"
    assert job(source_directory="/elsewhere").source_directory == "/elsewhere"


def test_the_script_is_relative_to_the_source_folder() -> None:
    assert job(entry_script="./a/../train.py").entry_script == "train.py"
    assert job(source_directory="code", entry_script="/dags/code/train.py").entry_script == "train.py"


@pytest.mark.parametrize("script", ["../train.py", "/etc/passwd", "a/../../train.py", ".", "/dags-not/train.py"])
@pytest.mark.parametrize("name", ["entry_script", "pip_requirements_file"])
def test_a_file_outside_the_source_folder_is_refused(name: str, script: str) -> None:
    said = refusal(**{name: script})
    assert said.startswith(f"{name} {script!r} is not inside source_directory '/dags'")


def test_something_must_run() -> None:
    assert "nothing to run" in refusal(entry_script=None)
    assert "nothing to run" in refusal(entry_script="")
    assert "nothing to run" in refusal(entry_script=None, command=[])


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ({"entry_script": "x.py"}, "entry_script"),
        ({"script": "x.py"}, "entry_script"),
        ({"script_params": {"a": "b"}}, "script_params"),
        ({"arguments": ["x"], "script": "x.py"}, "entry_script, arguments"),
    ],
)
def test_a_command_excludes_script_and_arguments(beside: dict[str, Any], said: str) -> None:
    assert refusal(**{"entry_script": None, "command": ["x"], **beside}).startswith(f"command excludes {said};")


def test_a_command_is_kept_as_it_is(hostile: str) -> None:
    assert job(entry_script=None, command=["sh", hostile]).command == ("sh", hostile)


def test_a_command_names_a_program() -> None:
    assert "must be a list, got the text 'python x.py'" in refusal(entry_script=None, command="python x.py")
    assert "must begin with a program" in refusal(entry_script=None, command=["", "x"])


def test_a_command_needs_no_source_folder_but_a_script_does() -> None:
    assert job(entry_script=None, command=["true"], source_directory="").source_directory == ""
    assert "needs a source_directory" in refusal(source_directory="")


def test_script_params_become_arguments_in_order() -> None:
    assert job(script_params={"--z": "1", "--v": "", "--a": 0.1}).arguments == ("--z", "1", "--v", "--a", "0.1")


def test_texts_travel_exactly(hostile: str) -> None:
    made = job(arguments=["x", hostile], environment_variables={"A": hostile}, tags={"t": hostile})
    assert made.arguments == ("x", hostile)
    assert made.environment_variables == {"A": hostile}
    assert made.tags == {"t": hostile}
    assert job(script_params={"--x": hostile}).arguments == (("--x", hostile) if hostile else ("--x",))


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (0.1, "0.1"), (1e-05, "1e-05"), (True, "True"), (Decimal("0.10"), "0.10"), (Path("/a b"), "/a b")],
)
def test_numbers_and_paths_become_texts(value: Any, text: str) -> None:
    assert job(arguments=[value]).arguments == (text,)
    assert job(script_params={"--x": value}).arguments == ("--x", text)
    assert job(environment_variables={"A": value}).environment_variables == {"A": text}


@pytest.mark.parametrize("value", [None, ["x"], {"a": 1}, b"x", object])
def test_what_is_no_text_is_refused(value: Any) -> None:
    assert refusal(arguments=["fine", value]).startswith("arguments[1] must be a text, got ")
    assert refusal(environment_variables={"A": value}).startswith("environment_variables['A'] must be a text, got ")


def test_what_no_process_can_be_given_is_refused() -> None:
    assert "NUL" in refusal(arguments=["a\0b"])
    assert "no valid unicode" in refusal(environment_variables={"A": "\udc80"})


def test_arguments_are_a_list_and_script_params_a_mapping() -> None:
    assert "arguments must be a list" in refusal(arguments="--lr 1")
    assert "script_params must be a mapping" in refusal(script_params=["--lr", "1"])
    assert "two forms of the same" in refusal(arguments=["a"], script_params={"b": "c"})


def test_the_name_is_the_programs_if_nobody_gives_one() -> None:
    assert job(entry_script="a/fit.py").name == "fit"
    assert job(entry_script=None, command=["/usr/bin/python", "x"]).name == "python"
    assert job(name="größe 1").name == "größe 1"
    assert "must be one line" in refusal(name="a\nb")


# -- nodes and processes


@pytest.mark.parametrize("value", [2, "2", " 2 ", "+2", 2.0])
def test_counts_may_be_texts_for_templates(value: Any) -> None:
    assert job(node_count=value).node_count == 2
    assert job(process_count_per_node=value).process_count_per_node == 2


@pytest.mark.parametrize(
    "value",
    [0, -1, "0", "-3", True, False, 1.5, "1.5", "two", "", "{{ params.n }}", [2], math.nan, math.inf, "\uff12", Fraction(2)],
)
@pytest.mark.parametrize("name", ["node_count", "process_count_per_node"])
def test_a_wrong_count_is_refused_by_name_and_value(name: str, value: Any) -> None:
    said = refusal(**{name: value})
    assert said.startswith(f"{name} must be a whole number from 1 on, got {value!r}; ")


@pytest.mark.parametrize("counts", [{"node_count": 2}, {"process_count_per_node": 2}])
def test_several_processes_of_pytorch_need_a_backend(counts: dict[str, int]) -> None:
    said = refusal(framework="pytorch", **counts)
    assert said.startswith("distributed_backend is None with ")
    assert said.endswith("set it to gloo or nccl")
    assert job(framework="any", **counts).distributed_backend is None


def test_one_process_needs_no_backend() -> None:
    assert pytorch().distributed_backend is None


@pytest.mark.parametrize("value", ["gloo", "Gloo", "NCCL", "nccl"])
def test_a_backend_is_written_in_any_case(value: str) -> None:
    assert pytorch(node_count=2, distributed_backend=value).distributed_backend == value.lower()


@pytest.mark.parametrize("value", ["mpi", "ps", "MPI"])
def test_backends_of_later_launchers_are_refused(value: str) -> None:
    said = refusal(framework="pytorch", node_count=2, distributed_backend=value)
    assert said == f"distributed_backend {value!r} is not offered yet for framework 'pytorch', use gloo or nccl"


def test_an_unknown_backend_is_refused() -> None:
    assert "'nccl2' is unknown, use gloo or nccl" in refusal(distributed_backend="nccl2")


@pytest.mark.parametrize(
    ("configuration", "nodes", "processes"),
    [
        (PyTorchConfiguration(), 1, 1),
        (PyTorchConfiguration(node_count=2), 2, 1),
        (PyTorchConfiguration("Gloo", 4, 2), 2, 2),
        ({"type": "PyTorchConfiguration", "process_count": "6", "node_count": "3"}, 3, 2),
    ],
)
def test_the_object_form_says_counts_and_backend(configuration: Any, nodes: int, processes: int) -> None:
    made = pytorch(distributed_training=configuration, node_count=1, process_count_per_node=1)
    assert (made.node_count, made.process_count_per_node) == (nodes, processes)
    assert made.distributed_backend in ("nccl", "gloo")


@pytest.mark.parametrize(
    ("configuration", "said"),
    [
        (PyTorchConfiguration(process_count=3, node_count=2), "3 is no multiple of node_count 2"),
        (PyTorchConfiguration(process_count=1, node_count=2), "1 is no multiple of node_count 2"),
        (PyTorchConfiguration(node_count=0), "PyTorchConfiguration.node_count must be a whole number from 1 on, got 0"),
        (MpiConfiguration(), "MpiConfiguration is not offered"),
        (TensorflowConfiguration(), "TensorflowConfiguration is not offered"),
        ("gloo", "must be one of MpiConfiguration, TensorflowConfiguration, PyTorchConfiguration, got 'gloo' of type str"),
        ({"type": "PyTorchConfiguration", "nodes": 2}, "nodes"),
        ({"type": "RayConfiguration"}, "must be one of"),
    ],
)
def test_a_wrong_object_form_is_refused(configuration: Any, said: str) -> None:
    assert said in refusal(framework="pytorch", distributed_training=configuration)


def test_the_object_form_and_the_plain_one_must_not_contradict() -> None:
    form = PyTorchConfiguration(node_count=2)
    assert pytorch(distributed_training=form, node_count=2, distributed_backend="NCCL").node_count == 2
    assert "node_count is 3, but PyTorchConfiguration says 2" in refusal(
        framework="pytorch", distributed_training=form, node_count=3
    )
    assert "does not go with framework 'any'" in refusal(distributed_training=form)


@pytest.mark.parametrize("kind", KINDS.values())
def test_configurations_survive_serialization(kind: Any) -> None:
    value = kind(node_count=3) if "node_count" in {f.name for f in dataclasses.fields(kind)} else kind(worker_count=3)
    data = json.loads(json.dumps(value.serialize()))
    assert data["type"] == kind.__name__
    assert kind.deserialize(data, kind.__version__) == value
    with pytest.raises(ValueError, match="can't read version 9"):
        kind.deserialize(data, 9)


# -- the environment


def test_the_framework_gets_its_packages() -> None:
    assert job().environment == Environment()
    assert pytorch().environment.packages == ("torch", "numpy")
    assert pytorch(pip_packages=["pandas==2.2"]).environment.packages == ("torch", "numpy", "pandas==2.2")


@pytest.mark.parametrize("named", ["torch", "Torch == 2.5", "torch[x]>=2", "torch @ file:///x.whl", "torch;python_version>'3'"])
def test_a_framework_that_the_user_names_is_not_named_again(named: str) -> None:
    assert pytorch(pip_packages=[named, "numpy<2"]).environment.packages == (named, "numpy<2")


def test_a_package_that_only_looks_like_it_is_another() -> None:
    assert pytorch(pip_packages=["torch-geometric"]).environment.packages == ("torch", "numpy", "torch-geometric")


@pytest.mark.parametrize(
    ("version", "requirement"),
    [("2.1", "torch==2.1.*"), ("2.13.0", "torch==2.13.0"), ("2.13.0+cpu", "torch==2.13.0+cpu")],
)
def test_a_framework_version_is_pinned(version: str, requirement: str) -> None:
    assert pytorch(framework_version=version).environment.packages == (requirement, "numpy")


@pytest.mark.parametrize("version", ["1.13", "2.0", "3.0", "2", "latest", "2.x", ">=2.1", "2.1; x"])
def test_an_unknown_framework_version_is_refused_with_those_supported(version: str) -> None:
    said = refusal(framework="pytorch", framework_version=version)
    assert said.startswith(f"framework_version {version!r} is not supported for pytorch; supported: 2.1 and later, before 3.0")


def test_a_framework_version_must_make_sense() -> None:
    assert "has no version" in refusal(framework_version="2.1")
    assert "put it in quotes" in refusal(framework="pytorch", framework_version=2.1)
    assert "leave out one" in refusal(framework="pytorch", framework_version="2.1", pip_packages=["torch==2.2"])


@pytest.mark.parametrize("package", ["", " ", "-e .", "--index-url x", "a\nb", "-r x"])
def test_options_are_no_packages(package: str) -> None:
    assert refusal(pip_packages=[package]).startswith(f"pip_packages has {package!r}")


def test_a_requirements_file_joins_the_packages() -> None:
    made = job(source_directory="code", pip_requirements_file="deps/a b.txt", pip_packages=["numpy"])
    assert made.environment.packages == ("numpy", "-r /dags/code/deps/a b.txt")


@pytest.mark.parametrize("key", ["interpreter", "python"])
def test_an_interpreter_of_the_users_own(key: str) -> None:
    environment = {key: "/opt/python", "user_managed_dependencies": "True"}
    assert pytorch(environment=environment).environment == Environment(interpreter="/opt/python")


def test_a_relative_interpreter_is_relative_to_the_base() -> None:
    environment = {**INTERPRETER, "interpreter": ".venv/bin/python"}
    assert job(environment=environment).environment.interpreter == "/dags/.venv/bin/python"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "wants one interpreter path"),
        ({"interpreter": "/a", "python": "/b", "user_managed_dependencies": True}, "wants one interpreter path"),
        ({"interpreter": "/a"}, "user_managed_dependencies=True"),
        ({"interpreter": "/a", "user_managed_dependencies": False}, "user_managed_dependencies=True"),
        ({"interpreter": "python3", "user_managed_dependencies": True}, "must be a path"),
        ({"image": "x"}, "'image', which is not offered in this release"),
        ("/opt/python", "environment must be a mapping, got '/opt/python'"),
    ],
)
def test_a_wrong_environment_is_refused(environment: Any, said: str) -> None:
    assert said in refusal(environment=environment)


@pytest.mark.parametrize(
    "beside",
    [
        {"pip_packages": ["x"]},
        {"pip_requirements_file": "x"},
        {"framework_version": "2.1"},
        {"use_gpu": True},
        {"use_gpu": "true"},
    ],
)
def test_an_environment_excludes_what_would_build_one(beside: dict[str, Any]) -> None:
    assert refusal(environment=INTERPRETER, framework="pytorch", **beside).startswith(
        f"environment excludes {next(iter(beside))};"
    )


def test_what_was_not_asked_for_does_not_count_as_beside_it() -> None:
    assert job(environment=INTERPRETER, use_gpu=False, pip_packages=[]).environment.interpreter == "/opt/python"
    assert job(environment=INTERPRETER, use_gpu="False").environment.interpreter == "/opt/python"


# -- what a node must have


def test_gpus_are_one_for_each_process_unless_said() -> None:
    assert pytorch(use_gpu=True, process_count_per_node=4, distributed_backend="nccl").resources.gpus == 4
    assert job(use_gpu="true", resources={"gpus": 1}, process_count_per_node=4).resources.gpus == 1
    assert job(process_count_per_node=4).resources == Resources()


@pytest.mark.parametrize(
    ("memory", "size"),
    [(1024, 1024), ("1024", 1024), ("16g", 16 << 30), ("1.5 GiB", 3 << 29), ("2MB", 2 << 20), ("1t", 1 << 40)],
)
def test_memory_is_bytes_or_a_text(memory: Any, size: int) -> None:
    assert job(resources={"memory": memory, "cpus": "2.5"}).resources == Resources(cpus=2.5, memory=size)


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"gpu": 1}, "resources has 'gpu'; did you mean 'gpus'?"),
        ({"gpus": -1}, "resources['gpus'] must be a whole number from 0 on, got -1"),
        ({"cpus": -1}, "resources['cpus'] can't be negative, got -1"),
        ({"cpus": "many"}, "resources['cpus'] must be a number, got 'many'"),
        ({"memory": "lots"}, "resources['memory'] must be a number of bytes"),
        ({"memory": True}, "resources['memory'] must be a number of bytes"),
        ({"memory": -1}, "resources['memory'] must be a number of bytes"),
        ([1], "resources must be a mapping"),
    ],
)
def test_wrong_resources_are_refused(resources: Any, said: str) -> None:
    assert said in refusal(resources=resources)


def test_use_gpu_is_true_or_false() -> None:
    assert "use_gpu must be true or false, got 'maybe'" in refusal(use_gpu="maybe")


# -- variables, secrets, store, durations


@pytest.mark.parametrize("name", ["1A", "A-B", "A B", "", "A=B", "größe", "A\n"])
@pytest.mark.parametrize("parameter", ["environment_variables", "secrets"])
def test_a_variable_name_must_be_one(parameter: str, name: str) -> None:
    assert f"{parameter} has {name!r}, which is no variable name" in refusal(**{parameter: {name: "x"}})


@pytest.mark.parametrize("parameter", ["environment_variables", "secrets"])
def test_musters_own_variables_are_refused(parameter: str) -> None:
    assert f"{parameter} sets MUSTER_RUN, but Muster owns" in refusal(**{parameter: {"MUSTER_RUN": "x"}})


def test_secrets_are_names_with_sources() -> None:
    assert job(secrets={"TOKEN": "conn.password"}).secrets == {"TOKEN": "conn.password"}
    assert "TOKEN is in both secrets and environment_variables" in refusal(
        secrets={"TOKEN": "conn"}, environment_variables={"TOKEN": "x"}
    )
    assert "secrets['TOKEN'] must say where" in refusal(secrets={"TOKEN": ""})


def test_the_store_is_required_and_said_how() -> None:
    for store in (None, ""):
        said = refusal(store=store)
        assert "no store is given" in said
        assert all(way in said for way in ("store", "MUSTER_STORE", "muster.toml"))
    assert job(store="s3://bucket").store == "s3://bucket"
    assert job(store="s3://bucket/a/").store == "s3://bucket/a"


@pytest.mark.parametrize("store", ["bucket/prefix", "s3://", "https://bucket/prefix", "/tmp/x", "s3:/bucket"])
def test_a_wrong_store_is_refused(store: str) -> None:
    assert "store must look like s3://bucket/prefix" in refusal(store=store)


@pytest.mark.parametrize(("value", "seconds"), [(1, 1.0), ("90", 90.0), (0.5, 0.5)])
def test_durations_are_seconds(value: Any, seconds: float) -> None:
    assert job(max_run_duration_seconds=value).max_run_duration_seconds == seconds
    assert job(grace_seconds=0, store_patience_seconds=0).grace_seconds == 0


@pytest.mark.parametrize("value", [0, -1, "soon", True, math.nan, math.inf, [1], 10**400])
def test_a_wrong_duration_is_refused(value: Any) -> None:
    assert refusal(max_run_duration_seconds=value).startswith("max_run_duration_seconds must be ")
    if value != 0:
        assert refusal(grace_seconds=value).startswith("grace_seconds must be ")
