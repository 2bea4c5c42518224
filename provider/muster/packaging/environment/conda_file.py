"""Reads a conda file: its Python and its pip packages, all that an environment without conda can have."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from muster.core.errors import RequestError
from muster.core.job import Environment
from muster.request.environment import CONDA_FILE, REQUIREMENTS

NAME = "conda_dependencies_file"
IGNORED = ("name", "channels", "prefix")  # sources and destination of conda's packages
_PYTHON = re.compile(r"python\s*={1,2}\s*(?P<version>3\.[0-9]+)(?:\.[0-9]+|\.\*)?")
_PIP = re.compile(r"(?:pip|setuptools|wheel)(?:[\s=<>!~].*)?")  # conda needs them listed; a resolved environment has its own


def spelled_out(environment: Environment) -> Environment:
    """Return the environment with its conda file replaced by Python and packages; a patch version of Python is dropped.

    :raises RequestError: the file can't be read, is no conda file, or has packages that only conda could install.
    """
    if not (environment.packages and environment.packages[0].startswith(CONDA_FILE)):
        return environment
    path = Path(environment.packages[0].removeprefix(CONDA_FILE))
    dependencies = _dependencies(path)
    python = _python(path, [item for item in dependencies if isinstance(item, str)])
    if python and environment.python not in ("", python):
        raise RequestError(f"python_version is {environment.python!r}, but {NAME} {path.name!r} says {python}; leave out one")
    packages = tuple(_packages(path, dependencies))
    return dataclasses.replace(environment, packages=packages, python=environment.python or python)


def _dependencies(path: Path) -> list[Any]:
    content = _content(path)
    unknown = sorted(str(key) for key in content if key not in (*IGNORED, "dependencies"))
    if unknown:
        remedy = "use environment_variables" if unknown[0] == "variables" else "take it out"
        raise RequestError(f"{NAME} {path.name!r} has {unknown[0]!r}, which is not offered in this release; {remedy}")
    dependencies = content.get("dependencies")
    if not isinstance(dependencies, list):
        raise RequestError(f"{NAME} {path.name!r} has no list 'dependencies', got {dependencies!r}; give one")
    return dependencies


def _content(path: Path) -> dict[Any, Any]:
    import yaml

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"{NAME} {str(path)!r} can't be read: {why}; correct its path or content") from error
    except yaml.YAMLError as error:
        raise RequestError(f"{NAME} {path.name!r} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise RequestError(f"{NAME} {path.name!r} wants a mapping with 'dependencies', got {content!r}")
    return content


def _python(path: Path, lines: list[str]) -> str:
    """Return the version of Python, "" if the file has none; every other conda package is refused."""
    found = ""
    for line in map(str.strip, lines):
        match = _PYTHON.fullmatch(line)
        if match:
            found = match["version"]
        elif line.startswith("python") and not line[6:7].isalnum() and line[6:7] not in ("-", "_", ""):
            raise RequestError(f"{NAME} {path.name!r} has {line!r}; give the exact version, such as python=3.11")
        elif line != "python" and not _PIP.fullmatch(line):
            raise RequestError(
                f"{NAME} {path.name!r} has the conda package {line!r}; conda packages come later: "
                "put it into the pip section, or use an image of your own"
            )
    return found


def _packages(path: Path, dependencies: list[Any]) -> Iterator[str]:
    for item in dependencies:
        if isinstance(item, str):
            continue
        if not isinstance(item, dict) or set(item) != {"pip"} or not isinstance(item["pip"] or [], list):
            raise RequestError(f"{NAME} {path.name!r} has {item!r} in its dependencies; give texts, and one 'pip' with a list")
        yield from (_pip_line(path, line) for line in item["pip"] or [])


def _pip_line(path: Path, line: Any) -> str:
    text = line.strip() if isinstance(line, str) else ""
    if text.startswith(REQUIREMENTS):
        return REQUIREMENTS + str(path.parent / text.removeprefix(REQUIREMENTS).strip())
    if not text or not text.isprintable() or text.startswith("-"):
        raise RequestError(f"{NAME} {path.name!r} has {line!r} in its pip section; give requirements such as 'numpy==2.1'")
    return text
