"""JOB.yaml: the operator's parameters in a file, texts exactly as written, and the values of its secrets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml

from muster.core.errors import RequestError

TEXTS = frozenset(
    {
        "framework_version",
        "python_version",
        "arguments",
        "script_params",
        "command",
        "environment_variables",
        "mpi_arguments",
        "docker_arguments",
        "apt_packages",
        "build_steps",
        "tags",
    }
)
"""Parameters whose scalars are texts: ``--lr: 0.10`` stays ``0.10`` and ``yes`` stays ``yes``."""

AIRFLOW_ONLY = {"aws_conn_id": "give AWS_* variables or [store] in muster.toml"}


class _Texts(yaml.constructor.SafeConstructor):
    """Constructs every scalar as the text it was written as."""

    yaml_constructors: ClassVar[dict[Any, Any]] = {}  # PyYAML's own way to say that no tag means anything


def read_job_file(path: Path) -> dict[str, Any]:
    """Read a job file.

    :raises RequestError: it can't be read, is no YAML mapping, or names a parameter that only Airflow can serve.
    """
    try:
        text = path.read_text(encoding="utf-8")
        parameters = _parse(text)
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"job file {path} can't be read: {error}") from error
    except yaml.YAMLError as error:
        raise RequestError(f"job file {path} is not valid YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise RequestError(f"job file {path}: {error}") from error
    refuse_airflow_only(parameters, f"job file {path}")
    return parameters


def refuse_airflow_only(parameters: Mapping[str, Any], where: str) -> None:
    """Refuse the parameters that only Airflow can serve.

    :raises RequestError: one of them is given.
    """
    for name, remedy in AIRFLOW_ONLY.items():
        if name in parameters:
            raise RequestError(f"{where}: {name!r} is a connection of Airflow, which is not available here; {remedy}")


def secret_values(sources: Mapping[str, str], base: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the values of secrets, each ``env:VARIABLE`` or ``file:path`` (relative to ``base``; a last line end is dropped).

    :raises RequestError: a source is of another kind, or does not exist.
    """
    return {name: _secret(name, source, base, environ) for name, source in sources.items()}


def _parse(text: str) -> dict[str, Any]:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise ValueError("wants parameters like 'entry_script: train.py', one a line")
        _refuse_doubles(node)
        loader.flatten_mapping(node)
        return _parameters(loader, node)
    finally:
        loader.dispose()


def _parameters(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for key_node, value_node in node.value:
        name = loader.construct_document(key_node)
        if not isinstance(name, str):
            raise ValueError(f"parameter names are texts, got {name!r}")
        constructor = _Texts() if name in TEXTS and not _is_null(value_node) else loader
        parameters[name] = constructor.construct_document(value_node)
    return parameters


def _refuse_doubles(node: yaml.MappingNode) -> None:
    names = [str(key.value) for key, _ in node.value]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise ValueError(f"{doubles[0]!r} is given twice")


def _is_null(node: yaml.Node) -> bool:
    return node.tag == "tag:yaml.org,2002:null"


def _secret(name: str, source: str, base: Path, environ: Mapping[str, str]) -> str:
    kind, _, place = str(source).partition(":")
    if kind == "env" and place in environ:
        return environ[place]
    if kind == "env":
        raise RequestError(f"secret {name}: variable {place!r} is not set; export it")
    if kind != "file":
        raise RequestError(f"secret {name}: its source must look like env:VARIABLE or file:path (never the value itself)")
    try:
        return (base / Path(place).expanduser()).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"secret {name}: {error}") from error
