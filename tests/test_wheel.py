"""The wheel: what it ships, and that what it promises to others by entry points is there."""

from __future__ import annotations

import configparser
import importlib
import pkgutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The project's wheel, built from the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def entry_points(wheel: zipfile.ZipFile) -> configparser.ConfigParser:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read_string(wheel.read(name).decode())
    return parser


def test_ships_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"muster"}


def test_ships_every_module_and_the_type_marker(wheel: zipfile.ZipFile) -> None:
    package = REPOSITORY / "provider" / "muster"
    modules = {f"muster/{path.relative_to(package)}" for path in package.rglob("*.py")}
    assert modules | {"muster/py.typed"} <= set(wheel.namelist())


def test_ships_its_licence(wheel: zipfile.ZipFile) -> None:
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())


def test_every_entry_point_imports(wheel: zipfile.ZipFile) -> None:
    points = entry_points(wheel)
    targets = [target for group in points.sections() for target in points[group].values()]
    for target in targets:
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name)), target


def test_airflow_and_the_shell_find_it(wheel: zipfile.ZipFile) -> None:
    points = entry_points(wheel)
    assert points["apache_airflow_provider"]["provider_info"] == "muster.provider_info:get_provider_info"
    assert points["console_scripts"]["muster"] == "muster.cli:main"


def test_every_class_that_provider_info_names_imports() -> None:
    from muster.provider_info import get_provider_info

    for path in class_paths(get_provider_info()):
        assert pkgutil.resolve_name(path) is not None, path


def class_paths(info: dict[str, object]) -> list[str]:
    """Everything in a provider's description that is a dotted path below muster."""
    found: list[str] = []
    queue: list[object] = [info]
    while queue:
        value = queue.pop()
        if isinstance(value, dict):
            queue.extend(value.values())
        elif isinstance(value, list):
            queue.extend(value)
        elif isinstance(value, str) and value.startswith("muster."):
            found.append(value)
    return found


def test_ships_the_dockerfiles_of_images(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {f"muster/docker/{folder}/Dockerfile" for folder in ("mpi", "pytorch", "tensorflow")} <= names
