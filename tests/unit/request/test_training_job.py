"""From parameters to the TrainingJob: what each means, and what is refused in which words."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from muster.core.codec import canonical, from_data
from muster.core.errors import RequestError
from muster.core.job import Environment, Mount, Resources, TrainingJob
from muster.request.training_job import ALIASES, NOT_OFFERED, PARAMETERS, training_job

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
        resources_per_node={"memory": "1g"},
        mounts=["/a:/b"],
        python_version="3.11",
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
    said = refusal(framework="torch")
    assert said == "framework 'torch' is not offered in this release; offered: any, mpi, pytorch, tensorflow"


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_means_the_same_and_excludes_it(alias: str, name: str) -> None:
    assert training_job({**PLAIN, alias: "x"}, base=BASE) == training_job({**PLAIN, name: "x"}, base=BASE)
    with pytest.raises(RequestError, match="given twice"):
        training_job({**PLAIN, alias: "x", name: "x"}, base=BASE)


# -- the program


def test_the_source_folder_is_relative_to_the_base() -> None:
    assert job(source_directory="code").source_directory == "/dags/code"
    assert job(source_directory="../code/").source_directory == "/code"
    assert job(source_directory="/elsewhere").source_directory == "/elsewhere"


def test_the_script_is_relative_to_the_source_folder() -> None:
    assert job(entry_script="./a/../train.py").entry_script == "train.py"
    assert job(source_directory="code", entry_script="/dags/code/train.py").entry_script == "train.py"


@pytest.mark.parametrize("script", ["../train.py", "/etc/passwd", "a/../../train.py", ".", "/dags-not/train.py"])
@pytest.mark.parametrize("name", ["entry_script", "pip_requirements_file", "conda_dependencies_file"])
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
        ({"script_params": {"a": "b"}}, "script_params"),
        ({"arguments": ["x"], "entry_script": "x.py"}, "entry_script, arguments"),
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
    assert said.endswith("set it to gloo, nccl or mpi")
    assert job(framework="any", **counts).distributed_backend is None


def test_one_process_needs_no_backend() -> None:
    assert pytorch().distributed_backend is None


@pytest.mark.parametrize("value", ["gloo", "Gloo", "NCCL", "nccl"])
def test_a_backend_is_written_in_any_case(value: str) -> None:
    assert pytorch(node_count=2, distributed_backend=value).distributed_backend == value.lower()


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
        ({}, "wants an image or one interpreter path"),
        ({"interpreter": "/a", "python": "/b", "user_managed_dependencies": True}, "one interpreter path"),
        ({"interpreter": "/a"}, "user_managed_dependencies=True"),
        ({"interpreter": "/a", "user_managed_dependencies": False}, "user_managed_dependencies=True"),
        ({"interpreter": "python3", "user_managed_dependencies": True}, "must be a path"),
        ({"image": "x", "interpreter": "/a", "user_managed_dependencies": True}, "an image or an interpreter"),
        ({"image": "x y"}, "environment['image'] 'x y' is no name of an image"),
        ({"image": "--privileged"}, "is no name of an image"),
        ({"conda": "x"}, "environment has 'conda'; it takes image, or interpreter"),
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
        {"conda_dependencies_file": "x"},
        {"framework_version": "2.1"},
        {"python_version": "3.11"},
        {"base_image": "x"},
        {"apt_packages": ["x"]},
        {"build_steps": ["x"]},
        {"use_gpu": True},
        {"use_gpu": "true"},
    ],
)
def test_an_environment_excludes_what_would_build_one(beside: dict[str, Any]) -> None:
    assert refusal(environment=INTERPRETER, framework="pytorch", **beside).startswith(
        f"environment excludes {next(iter(beside))};"
    )


def test_an_image_of_the_users_own() -> None:
    for image in ("repo/name:tag", "host:5000/a/b", "name@sha256:" + "0" * 64):
        assert pytorch(environment={"image": image}).environment == Environment(image=image)


def test_what_was_not_asked_for_does_not_count_as_beside_it() -> None:
    assert job(environment=INTERPRETER, use_gpu=False, pip_packages=[]).environment.interpreter == "/opt/python"
    assert job(environment=INTERPRETER, use_gpu="False").environment.interpreter == "/opt/python"


@pytest.mark.parametrize(("use_gpu", "package"), [(False, "tensorflow-cpu"), (True, "tensorflow[and-cuda]")])
def test_tensorflow_comes_for_cpus_or_gpus(use_gpu: bool, package: str) -> None:
    assert job(framework="tensorflow", use_gpu=use_gpu).environment.packages == (package,)
    version = job(framework="tensorflow", use_gpu=use_gpu, framework_version="2.21.0").environment.packages
    assert version == (f"{package}==2.21.0",)


@pytest.mark.parametrize("named", ["tensorflow-cpu==2.21.0", "tensorflow[and-cuda]", "TF_Nightly"])
def test_tensorflow_by_any_of_its_names_is_not_named_again(named: str) -> None:
    assert job(framework="tensorflow", pip_packages=[named]).environment.packages == (named,)
    assert "leave out one" in refusal(framework="tensorflow", pip_packages=[named], framework_version="2.21")


def test_keras_comes_by_pip_packages() -> None:
    made = job(framework="tensorflow", pip_packages=["keras==3.12.0", "tf-keras==2.21.0"])
    assert made.environment.packages == ("tensorflow-cpu", "keras==3.12.0", "tf-keras==2.21.0")


@pytest.mark.parametrize("version", ["1.15", "2.15.1", "3.0"])
def test_tensorflow_has_versions_of_its_own(version: str) -> None:
    assert "supported: 2.16 and later, before 3.0" in refusal(framework="tensorflow", framework_version=version)


def test_a_script_under_mpi_gets_mpi4py_and_a_command_nothing() -> None:
    assert job(framework="mpi").environment.packages == ("mpi4py",)
    assert job(framework="mpi", pip_packages=["numpy"]).environment.packages == ("mpi4py", "numpy")
    assert job(framework="mpi", pip_packages=["mpi4py==4.1.2"]).environment.packages == ("mpi4py==4.1.2",)
    assert job(framework="mpi", entry_script=None, command=["./a.out"]).environment == Environment()
    assert job(framework="mpi", environment=INTERPRETER).environment.packages == ()
    assert "has no version" in refusal(framework="mpi", framework_version="4.1")


def test_a_conda_file_says_all_packages() -> None:
    made = pytorch(conda_dependencies_file="deps/all in.yml")
    assert made.environment.packages == ("--conda-file /dags/deps/all in.yml",)


@pytest.mark.parametrize(
    "beside", [{"pip_packages": ["x"]}, {"pip_requirements_file": "x"}, {"framework_version": "2.1"}, {"conda_packages": ["x"]}]
)
def test_a_conda_file_excludes_other_lists(beside: dict[str, Any]) -> None:
    said = refusal(framework="pytorch", conda_dependencies_file="x.yml", **beside)
    assert "conda_dependencies_file" in said
    assert next(iter(beside)) in said


def test_wishes_for_an_image_that_is_built() -> None:
    environment = job(
        python_version=" 3.12 ",
        base_image="debian:12",
        apt_packages=["libgl1", "g++", "git=1:2.39.2-1.1"],
        build_steps=["a && b"],
    ).environment
    assert environment == Environment(
        python="3.12", base_image="debian:12", apt_packages=("libgl1", "g++", "git=1:2.39.2-1.1"), steps=("a && b",)
    )


@pytest.mark.parametrize("package", ["", "a b", "libgl1;id", "$(id)", "-y", "a\nb", "A", "libgl1 ", "x=1\n"])
def test_an_apt_package_is_a_name(package: str) -> None:
    assert refusal(apt_packages=[package]).startswith(f"apt_packages has {package!r}; give names")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"python_version": 3.1}, "put it in quotes"),
        ({"python_version": "3.11.4"}, "without a patch"),
        ({"python_version": "3.9"}, "3.10 or later"),
        ({"base_image": "a b"}, "base_image 'a b' is no name of an image"),
        ({"base_image": "a\nRUN id"}, "is no name of an image"),
        ({"build_steps": ["a\nb"]}, "build_steps[0] must be one line of text"),
        ({"build_steps": ["a", " "]}, "build_steps[1] must be one line of text"),
        ({"build_steps": "a"}, "build_steps must be a list"),
    ],
)
def test_wrong_wishes_for_an_image_are_refused(parameters: dict[str, Any], said: str) -> None:
    assert said in refusal(**parameters)


# -- what containers are given


@pytest.mark.parametrize(
    ("given", "mount"),
    [
        ("/data:/mnt", Mount(source="/data", target="/mnt")),
        ("/data:/mnt:ro", Mount(source="/data", target="/mnt")),
        ("//data/./x/:/mnt/../m y:rw", Mount(source="/data/x", target="/m y", read_only=False)),
        ({"source": "/a:b", "target": "/mnt"}, Mount(source="/a:b", target="/mnt")),
        ({"source": "/a", "target": "/mnt", "read_only": "false"}, Mount(source="/a", target="/mnt", read_only=False)),
    ],
)
def test_a_mount_is_a_text_or_a_mapping(given: Any, mount: Mount) -> None:
    assert job(mounts=[given]).mounts == (mount,)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("/data:/mnt", "mounts must be a list"),
        (["/data"], "mounts[0] is '/data'; give"),
        (["/data:/mnt:rwx"], "mounts[0] is '/data:/mnt:rwx'"),
        (["data:/mnt"], "mounts[0]'s source must be an absolute path, got 'data'"),
        (["/data:mnt"], "mounts[0]'s target must be an absolute path"),
        (["/data:/x/.."], "can't be the root folder"),
        (["/a:/mnt", "/b:/mnt/"], "mounts[1] has the target '/mnt' of another"),
        ([{"source": "/a"}], "mounts[0] is {'source': '/a'}"),
        ([{"source": "/a", "target": "/b", "type": "nfs"}], "mounts[0] has 'type'"),
        ([3], "mounts[0] is 3"),
        (["/a\n:/b"], "must be one line of text"),
    ],
)
def test_a_wrong_mount_is_refused(given: Any, said: str) -> None:
    assert said in refusal(mounts=given)


def test_shared_memory_is_2_gigabytes_unless_said() -> None:
    assert job().shm_size == 2 << 30
    assert job(shm_size="512m").shm_size == 512 << 20
    assert "shm_size must be more than 0" in refusal(shm_size=0)
    assert "shm_size must be a number of bytes" in refusal(shm_size="much")


def test_docker_arguments_are_texts(hostile: str) -> None:
    assert job(docker_arguments=["--ulimit", "memlock=-1", hostile]).docker_arguments == ("--ulimit", "memlock=-1", hostile)
    assert "docker_arguments must be a list" in refusal(docker_arguments="--privileged")


# -- what a node must have


def test_gpus_are_one_for_each_process_unless_said() -> None:
    assert pytorch(use_gpu=True, process_count_per_node=4, distributed_backend="nccl").resources.gpus == 4
    assert job(use_gpu="true", resources_per_node={"gpus": 1}, process_count_per_node=4).resources.gpus == 1
    assert job(process_count_per_node=4).resources == Resources()


@pytest.mark.parametrize(
    ("memory", "size"),
    [(1024, 1024), ("1024", 1024), ("16g", 16 << 30), ("1.5 GiB", 3 << 29), ("2MB", 2 << 20), ("1t", 1 << 40)],
)
def test_memory_is_bytes_or_a_text(memory: Any, size: int) -> None:
    assert job(resources_per_node={"memory": memory, "cpus": "2.5"}).resources == Resources(cpus=2.5, memory=size)


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"gpu": 1}, "resources_per_node has 'gpu'; did you mean 'gpus'?"),
        ({"gpus": -1}, "resources_per_node['gpus'] must be a whole number from 0 on, got -1"),
        ({"cpus": -1}, "resources_per_node['cpus'] can't be negative, got -1"),
        ({"cpus": "many"}, "resources_per_node['cpus'] must be a number, got 'many'"),
        ({"memory": "lots"}, "resources_per_node['memory'] must be a number of bytes"),
        ({"memory": True}, "resources_per_node['memory'] must be a number of bytes"),
        ({"memory": -1}, "resources_per_node['memory'] must be a number of bytes"),
        ([1], "resources_per_node must be a mapping"),
    ],
)
def test_wrong_resources_are_refused(resources: Any, said: str) -> None:
    assert said in refusal(resources_per_node=resources)


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
