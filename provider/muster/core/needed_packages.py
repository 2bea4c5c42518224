"""The environment that a request asks for: an interpreter of the user's own, or the packages to build one of."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from muster.core import coerce
from muster.core.errors import RequestError
from muster.core.frameworks import Framework
from muster.core.job import Environment

REQUIREMENTS = "-r "
"""Begins the one line of ``Environment.packages`` that is no requirement but names a file of them, by its absolute path."""

EXCLUDED_BY_ENVIRONMENT = ("pip_packages", "pip_requirements_file", "framework_version", "use_gpu")
_INTERPRETER_NAMES = ("interpreter", "python")
_FALSE = ("false", "no", "0")
_MANAGED = "user_managed_dependencies"
_NAME = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")


def environment(given: Mapping[str, Any], framework: Framework, source_directory: str, base: str) -> Environment:
    """Give the environment of the ranks; an interpreter's path is relative to ``base``.

    :raises RequestError: a wrong value, or an explicit environment with options for building one beside it.
    """
    if "environment" in given:
        return _explicit(given, base)
    packages = tuple(map(_requirement, coerce.texts("pip_packages", given.get("pip_packages", ()))))
    wanted = (*_of_framework(given, framework, packages), *packages)
    file = given.get("pip_requirements_file")
    if file:
        path = inside("pip_requirements_file", file, source_directory)
        wanted = (*wanted, REQUIREMENTS + os.path.join(source_directory, path))
    return Environment(packages=wanted)


def inside(name: str, value: Any, source_directory: str) -> str:
    """Give a path relative to ``source_directory``, in which it must lie; nothing on disk is looked at.

    :raises RequestError: it lies outside, or there is no source directory.
    """
    path = coerce.text(name, value)
    if not source_directory:
        raise RequestError(f"{name} {path!r} needs a source_directory, got an empty one; give the folder it is in")
    whole = os.path.normpath(os.path.join(source_directory, path))
    if os.path.commonpath([whole, source_directory]) != source_directory or whole == source_directory:
        raise RequestError(f"{name} {path!r} is not inside source_directory {source_directory!r}; give a path relative to it")
    return os.path.relpath(whole, source_directory)


def _explicit(given: Mapping[str, Any], base: str) -> Environment:
    # use_gpu=False is what operators pass when nobody has said anything
    beside = [name for name in EXCLUDED_BY_ENVIRONMENT if given.get(name) and str(given[name]).strip().lower() not in _FALSE]
    if beside:
        remedy = '; for GPUs set resources={"gpus": n}' if "use_gpu" in beside else ""
        raise RequestError(f"environment excludes {', '.join(beside)}; leave out one or the other{remedy}")
    fields = coerce.mapping("environment", given["environment"])
    unknown = sorted(set(fields) - {*_INTERPRETER_NAMES, _MANAGED})
    if unknown:
        raise RequestError(
            f"environment has {unknown[0]!r}, which is not offered in this release; it takes interpreter and {_MANAGED}"
        )
    return Environment(interpreter=os.path.abspath(os.path.join(base, os.path.expanduser(_interpreter(fields)))))


def _interpreter(fields: Mapping[str, Any]) -> str:
    paths = [coerce.text(f"environment[{name!r}]", fields[name]) for name in _INTERPRETER_NAMES if fields.get(name)]
    if len(paths) != 1:
        raise RequestError(f"environment wants one interpreter path, got {dict(fields)!r}; give interpreter: /path/to/python")
    if not coerce.flag(_MANAGED, fields.get(_MANAGED, False)):
        raise RequestError(f"environment names an interpreter, whose packages are the user's: say {_MANAGED}=True as well")
    if "/" not in paths[0]:
        raise RequestError(
            f"environment's interpreter must be a path, the same on every node, got {paths[0]!r}; give all of it"
        )
    return paths[0]


def _requirement(value: str) -> str:
    requirement = value.strip()
    if not requirement or not requirement.isprintable() or requirement.startswith("-"):
        raise RequestError(f"pip_packages has {value!r}; give requirements such as 'numpy==2.1', options go into a file")
    return requirement


def _of_framework(given: Mapping[str, Any], framework: Framework, packages: tuple[str, ...]) -> tuple[str, ...]:
    """Give the framework's packages that the user's do not name."""
    named = {_plain_name(requirement) for requirement in packages}
    version = given.get("framework_version")
    if not version:
        return tuple(package for package in framework.packages if package not in named)
    if not isinstance(version, str):
        raise RequestError(
            f"framework_version must be a text, got {version!r}: as a number 2.10 would be 2.1; put it in quotes"
        )
    pinned = framework.pinned(version)
    if framework.packages[0] in named:
        raise RequestError(f"framework_version {version!r}, but pip_packages name {framework.packages[0]} too; leave out one")
    return (pinned, *(package for package in framework.packages[1:] if package not in named))


def _plain_name(requirement: str) -> str:
    match = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""
