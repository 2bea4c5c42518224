"""``training_job``: from the parameters of an operator or a job file to the validated TrainingJob; reads no files."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from typing import Any

from muster.core.errors import RequestError
from muster.core.job import Resources, TrainingJob
from muster.core.store_keys import split_uri
from muster.request import coerce, container
from muster.request.distribution import distribution
from muster.request.environment import environment, inside
from muster.request.frameworks import FRAMEWORKS, Framework

PARAMETERS = (
    "name",
    "framework",
    "source_directory",
    "entry_script",
    "script_params",
    "arguments",
    "command",
    "compute_target",
    "muster_conn_id",
    "node_count",
    "process_count_per_node",
    "elastic",
    "distributed_backend",
    "distributed_training",
    "worker_count",
    "parameter_server_count",
    "chief",
    "evaluator",
    "mpi_arguments",
    "environment",
    "pip_packages",
    "pip_requirements_file",
    "conda_dependencies_file",
    "framework_version",
    "python_version",
    "base_image",
    "apt_packages",
    "build_steps",
    "use_gpu",
    "resources_per_node",
    "network_interface",
    "environment_variables",
    "secrets",
    "mounts",
    "shm_size",
    "docker_arguments",
    "max_run_duration_seconds",
    "grace_seconds",
    "store_patience_seconds",
    "resume_from",
    "store",
    "aws_conn_id",
    "tags",
)
"""Parameters of a job, shared by operators, job files and the Python API."""

NOT_OFFERED = {
    "conda_packages": "use pip_packages, apt_packages, or an image of your own",
    "inputs": "fetch the data in the script, or read it from a folder that every node sees",
    "stall_timeout": "use max_run_duration_seconds",
}
"""Parameters that a later release will take, with what to do until then."""

ALIASES = {"muster_conn_id": "compute_target"}
RESOURCES = ("gpus", "cpus", "memory")
OWN_PREFIX = "MUSTER_"

_DEFAULTS = TrainingJob(name="", framework="")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def training_job(parameters: Mapping[str, Any], *, base: str | os.PathLike[str]) -> TrainingJob:
    """Return the job that ``parameters`` describe; None means that a parameter is not given.

    ``base`` is the folder that ``source_directory`` is relative to. Files, and variables that the
    launcher owns, are checked later: see ``muster.packaging.code.source`` and ``muster.launchers``.

    :raises RequestError: a parameter is wrong; the message names it, its value and what to do.
    """
    given = _known(parameters)
    framework = _framework(given.get("framework", "any"))
    source_directory = _source_directory(given.get("source_directory", "."), base)
    entry_script, arguments, command = _program(given, source_directory)
    layout = distribution(given, framework)
    use_gpu = coerce.flag("use_gpu", given.get("use_gpu", False))
    variables = _variables("environment_variables", given)
    return TrainingJob(
        name=coerce.line("name", given["name"]) if given.get("name") else _default_name(entry_script, command),
        framework=framework.name,
        source_directory=source_directory,
        entry_script=entry_script,
        arguments=arguments,
        command=command,
        node_count=layout.node_count,
        min_node_count=layout.min_node_count,
        process_count_per_node=layout.process_count_per_node,
        distributed_backend=layout.backend,
        roles=layout.roles,
        mpi_arguments=layout.mpi_arguments,
        environment=environment(given, framework, source_directory, os.fspath(base)),
        resources=_resources(given.get("resources_per_node", {}), layout.process_count_per_node if use_gpu else 0),
        use_gpu=use_gpu,
        network_interface=_optional_line("network_interface", given),
        environment_variables=variables,
        secrets=_secrets(given, variables),
        mounts=container.mounts(given.get("mounts", ())),
        shm_size=container.shm_size(given.get("shm_size", _DEFAULTS.shm_size)),
        docker_arguments=coerce.texts("docker_arguments", given.get("docker_arguments", ())),
        max_run_duration_seconds=_duration("max_run_duration_seconds", given, zero=False),
        grace_seconds=_duration("grace_seconds", given, zero=True),
        store_patience_seconds=_duration("store_patience_seconds", given, zero=True),
        resume_from=_optional_line("resume_from", given),
        store=_store(given.get("store", "")),
        tags=coerce.text_map("tags", given.get("tags", {})),
    )


def _known(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given parameters, with aliases replaced."""
    given: dict[str, Any] = {}
    for name, value in parameters.items():
        if name not in PARAMETERS and name not in NOT_OFFERED:
            raise RequestError(f"unknown parameter {name!r}; {_near(str(name), PARAMETERS)}")
        if value is None:
            continue
        if name in NOT_OFFERED:
            raise RequestError(_not_offered(str(name), value, parameters))
        known = ALIASES.get(name, name)
        if known in given and value and given[known]:
            raise RequestError(f"{known} is given twice, as {given[known]!r} and {value!r}: {name} is its alias")
        given[known] = value or given.get(known, value)
    return given


def _not_offered(name: str, value: Any, parameters: Mapping[str, Any]) -> str:
    together = parameters.get("conda_dependencies_file")
    beside = f"; beside conda_dependencies_file {together!r} it is wrong in any case" if together and "conda" in name else ""
    return f"{name} is not offered in this release, got {value!r}; {NOT_OFFERED[name]}{beside}"


def _near(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def _framework(value: Any) -> Framework:
    name = coerce.text("framework", value)
    if name not in FRAMEWORKS:
        raise RequestError(f"framework {name!r} is not offered in this release; offered: {', '.join(sorted(FRAMEWORKS))}")
    return FRAMEWORKS[name]


def _source_directory(value: Any, base: str | os.PathLike[str]) -> str:
    folder = coerce.text("source_directory", value)
    return os.path.abspath(os.path.join(base, folder)) if folder else ""


def _program(given: Mapping[str, Any], source_directory: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Return script, its arguments, and command."""
    if given.get("command"):
        beside = [name for name in ("entry_script", "script_params", "arguments") if given.get(name)]
        if beside:
            raise RequestError(f"command excludes {', '.join(beside)}; leave out one or the other")
        return "", (), _command(given["command"])
    if not given.get("entry_script"):
        raise RequestError('nothing to run: give entry_script: "train.py", or command: ["program", "argument"]')
    script = inside("entry_script", given["entry_script"], source_directory)
    return script, _arguments(given), ()


def _command(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise RequestError(f'command must be a list, got the text {value!r}; for a shell line give ["sh", "-c", {value!r}]')
    command = coerce.texts("command", value)
    if not command[0]:
        raise RequestError(f"command must begin with a program, got {list(command)!r}")
    return command


def _arguments(given: Mapping[str, Any]) -> tuple[str, ...]:
    parameters = coerce.text_map("script_params", given.get("script_params", {}))
    arguments = coerce.texts("arguments", given.get("arguments", ()))
    if parameters and arguments:
        raise RequestError("script_params and arguments are two forms of the same, got both; leave out one of them")
    return arguments or tuple(part for name, value in parameters.items() for part in ([name, value] if value else [name]))


def _default_name(entry_script: str, command: tuple[str, ...]) -> str:
    name = os.path.splitext(os.path.basename(entry_script or command[0]))[0]
    return name if name.isprintable() and name.strip() else "run"


def _resources(value: Any, default_gpus: int) -> Resources:
    wanted = coerce.mapping("resources_per_node", value)
    for name in wanted:
        if name not in RESOURCES:
            raise RequestError(f"resources_per_node has {name!r}; {_near(name, RESOURCES)}")
    known = {name: item for name, item in wanted.items() if item is not None}
    return Resources(
        gpus=coerce.whole("resources_per_node['gpus']", known.get("gpus", default_gpus), least=0),
        cpus=coerce.amount("resources_per_node['cpus']", known.get("cpus", 0)),
        memory=coerce.size("resources_per_node['memory']", known.get("memory", 0)),
    )


def _variables(name: str, given: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of a parameter after checking their names."""
    variables = coerce.text_map(name, given.get(name, {}))
    for variable in variables:
        if not _VARIABLE.fullmatch(variable):
            raise RequestError(f"{name} has {variable!r}, which is no variable name; use letters, digits and _")
        if variable.startswith(OWN_PREFIX):
            raise RequestError(f"{name} sets {variable}, but Muster owns every {OWN_PREFIX}* variable; choose another name")
    return variables


def _secrets(given: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, str]:
    secrets = _variables("secrets", given)
    for name, source in secrets.items():
        if name in variables:
            raise RequestError(f"{name} is in both secrets and environment_variables; leave it out of one of them")
        if not source.strip():
            raise RequestError(f"secrets[{name!r}] must say where its value is found, got {source!r}")
    return secrets


def _optional_line(name: str, given: Mapping[str, Any]) -> str:
    return coerce.line(name, given[name]) if given.get(name) else ""


def _duration(name: str, given: Mapping[str, Any], *, zero: bool) -> float:
    return coerce.seconds(name, given.get(name, getattr(_DEFAULTS, name)), zero=zero)


def _store(value: Any) -> str:
    uri = coerce.text("store", value).rstrip("/")
    if not uri:
        raise RequestError(
            "no store is given: set store to s3://bucket/prefix, or MUSTER_STORE, or uri in [store] of muster.toml, "
            "or store in Airflow's [muster] section"
        )
    try:
        split_uri(uri)
    except ValueError as error:
        raise RequestError(str(error)) from error
    return uri
