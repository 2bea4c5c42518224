"""The environment of a request: a user-managed one, or the packages and options to build one from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from muster.core.errors import RequestError
from muster.core.job import Environment
from muster.request import coerce
from muster.request.frameworks import Framework

REQUIREMENTS = "-r "
"""Prefix of the line in ``Environment.packages`` that names a requirements file by its absolute path."""

CONDA_FILE = "--conda-file "
"""Prefix of the only line in ``Environment.packages`` when a conda file lists all packages, by its absolute path."""

BUILD_OPTIONS = ("python_version", "base_image", "apt_packages", "build_steps")
EXCLUDED_BY_CONDA_FILE = ("pip_packages", "pip_requirements_file", "framework_version")
EXCLUDED_BY_ENVIRONMENT = (*EXCLUDED_BY_CONDA_FILE, "conda_dependencies_file", "use_gpu", *BUILD_OPTIONS)
_INTERPRETER_NAMES = ("interpreter", "python")
_FALSE = ("false", "no", "0")
_MANAGED = "user_managed_dependencies"
_IMAGE = "image"
_NAME = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")
_PYTHON = re.compile(r"3\.[1-9][0-9]")
_APT = re.compile(r"[a-z0-9][a-z0-9+.-]+(?::[a-z0-9]+)?(?:=[A-Za-z0-9.+:~-]+)?")
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*(?:@sha256:[0-9a-f]{64})?")


def environment(given: Mapping[str, Any], framework: Framework, source_directory: str, base: str) -> Environment:
    """Return the environment of the ranks; an interpreter's path is relative to ``base``.

    :raises RequestError: a wrong value, or an explicit environment with options for building one beside it.
    """
    if "environment" in given:
        return _explicit(given, base)
    return Environment(
        packages=_packages(given, framework, source_directory),
        python=_python_version(given.get("python_version")),
        base_image=_reference("base_image", given["base_image"]) if given.get("base_image") else "",
        apt_packages=tuple(map(_apt_package, coerce.texts("apt_packages", given.get("apt_packages", ())))),
        steps=_steps(given.get("build_steps", ())),
    )


def inside(name: str, value: Any, source_directory: str) -> str:
    """Return a path relative to ``source_directory``, in which it must lie; no file is read.

    :raises RequestError: it lies outside, or there is no source directory.
    """
    path = coerce.text(name, value)
    if not source_directory:
        raise RequestError(f"{name} {path!r} needs a source_directory, got an empty one; give the folder it is in")
    whole = os.path.normpath(os.path.join(source_directory, path))
    if os.path.commonpath([whole, source_directory]) != source_directory or whole == source_directory:
        raise RequestError(f"{name} {path!r} is not inside source_directory {source_directory!r}; give a path relative to it")
    return os.path.relpath(whole, source_directory)


# -- user-managed


def _explicit(given: Mapping[str, Any], base: str) -> Environment:
    # use_gpu=False is the operators' default
    beside = [name for name in EXCLUDED_BY_ENVIRONMENT if given.get(name) and str(given[name]).strip().lower() not in _FALSE]
    if beside:
        remedy = '; for GPUs set resources_per_node={"gpus": n}' if "use_gpu" in beside else ""
        raise RequestError(f"environment excludes {', '.join(beside)}; leave out one or the other{remedy}")
    fields = coerce.mapping("environment", given["environment"])
    unknown = sorted(set(fields) - {*_INTERPRETER_NAMES, _MANAGED, _IMAGE})
    if unknown:
        raise RequestError(f"environment has {unknown[0]!r}; it takes {_IMAGE}, or interpreter and {_MANAGED}")
    if fields.get(_IMAGE):
        return Environment(image=_own_image(fields))
    return Environment(interpreter=os.path.abspath(os.path.join(base, os.path.expanduser(_interpreter(fields)))))


def _own_image(fields: Mapping[str, Any]) -> str:
    if any(fields.get(name) for name in _INTERPRETER_NAMES):
        raise RequestError(f"environment wants an {_IMAGE} or an interpreter, got {dict(fields)!r}; leave out one of them")
    return _reference(f"environment[{_IMAGE!r}]", fields[_IMAGE])


def _interpreter(fields: Mapping[str, Any]) -> str:
    paths = [coerce.text(f"environment[{name!r}]", fields[name]) for name in _INTERPRETER_NAMES if fields.get(name)]
    if len(paths) != 1:
        raise RequestError(
            f"environment wants an {_IMAGE} or one interpreter path, got {dict(fields)!r}; give interpreter: /path/to/python"
        )
    if not coerce.flag(_MANAGED, fields.get(_MANAGED, False)):
        raise RequestError(f"environment names an interpreter, whose packages are the user's: say {_MANAGED}=True as well")
    if "/" not in paths[0]:
        raise RequestError(
            f"environment's interpreter must be a path, the same on every node, got {paths[0]!r}; give all of it"
        )
    return paths[0]


# -- to be built


def _packages(given: Mapping[str, Any], framework: Framework, source_directory: str) -> tuple[str, ...]:
    if given.get("conda_dependencies_file"):
        return (CONDA_FILE + _conda_file(given, source_directory),)
    packages = tuple(map(_requirement, coerce.texts("pip_packages", given.get("pip_packages", ()))))
    packages_of_both = (*_of_framework(given, framework, packages), *packages)
    file = given.get("pip_requirements_file")
    if not file:
        return packages_of_both
    path = inside("pip_requirements_file", file, source_directory)
    return (*packages_of_both, REQUIREMENTS + os.path.join(source_directory, path))


def _conda_file(given: Mapping[str, Any], source_directory: str) -> str:
    beside = [name for name in EXCLUDED_BY_CONDA_FILE if given.get(name)]
    if beside:
        raise RequestError(
            f"conda_dependencies_file lists all packages and excludes {', '.join(beside)}; leave out one or the other"
        )
    return os.path.join(source_directory, inside("conda_dependencies_file", given["conda_dependencies_file"], source_directory))


def _requirement(value: str) -> str:
    requirement = value.strip()
    if not requirement or not requirement.isprintable() or requirement.startswith("-"):
        raise RequestError(f"pip_packages has {value!r}; give requirements such as 'numpy==2.1', options go into a file")
    return requirement


def _of_framework(given: Mapping[str, Any], framework: Framework, packages: tuple[str, ...]) -> tuple[str, ...]:
    """Return the framework's packages that the user's list does not name."""
    named = {_plain_name(requirement) for requirement in packages}
    use_gpu = coerce.flag("use_gpu", given.get("use_gpu", False))
    own = framework.packages_for(use_gpu=use_gpu, script=bool(given.get("entry_script")))
    named_framework = [name for name in (*map(_plain_name, own[:1]), *framework.same) if name in named]
    rest = tuple(package for package in own[1:] if package not in named)
    version = given.get("framework_version")
    if not version:
        return rest if named_framework else (*own[:1], *rest)
    if not isinstance(version, str):
        raise RequestError(
            f"framework_version must be a text, got {version!r}: as a number 2.10 would be 2.1; put it in quotes"
        )
    pinned = framework.pinned("".join(own[:1]), version)
    if named_framework:
        raise RequestError(f"framework_version {version!r}, but pip_packages name {named_framework[0]} too; leave out one")
    return (pinned, *rest)


def _plain_name(requirement: str) -> str:
    match = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""


def _python_version(value: Any) -> str:
    if value is None or value == "":
        return ""
    if not isinstance(value, str):
        raise RequestError(f"python_version must be a text, got {value!r}: as a number 3.10 would be 3.1; put it in quotes")
    if not _PYTHON.fullmatch(value.strip()):
        raise RequestError(f"python_version {value!r} is not supported; give 3.10 or later, such as '3.11', without a patch")
    return value.strip()


def _reference(name: str, value: Any) -> str:
    reference = coerce.text(name, value).strip()
    if not _REFERENCE.fullmatch(reference):
        raise RequestError(f"{name} {value!r} is no name of an image; give for example 'repository/name:tag'")
    return reference


def _apt_package(value: str) -> str:
    if not _APT.fullmatch(value):
        raise RequestError(f"apt_packages has {value!r}; give names of packages such as 'libgl1', or 'libgl1=1.6.0-1'")
    return value


def _steps(value: Any) -> tuple[str, ...]:
    steps = coerce.texts("build_steps", value)
    for index, step in enumerate(steps):
        coerce.line(f"build_steps[{index}]", step)
    return steps
