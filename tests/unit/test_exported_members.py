"""The public names of ``muster``: all there, typed, documented, and imported only when they are used."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import muster
from muster.core import errors

REPOSITORY = Path(__file__).parents[2]
INIT = Path(muster.__file__)


def test_everything_public_is_listed_in_order() -> None:
    assert sorted(muster.__all__) == muster.__all__ == dir(muster)
    assert set(muster.__all__) == {"__version__", *muster._EXPORTS}


@pytest.mark.parametrize("name", muster.__all__)
def test_every_exported_name_is_there(name: str) -> None:
    value = getattr(muster, name)
    assert name in ("__version__", getattr(value, "__name__", ""))


@pytest.mark.parametrize("name", sorted({*muster.__all__} - {"__version__"}))
def test_every_exported_name_is_documented(name: str) -> None:
    page = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    assert re.search(rf"`(?:muster\.)?{name}[`(]", page), f"docs/api.md does not name {name}"


def test_a_type_checker_sees_the_same_names_from_the_same_modules() -> None:
    (block,) = (node for node in ast.parse(INIT.read_text(encoding="utf-8")).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == muster._EXPORTS


def test_every_error_is_exported() -> None:
    tree = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.MusterError)}
    assert tree <= set(muster.__all__)


def test_importing_muster_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import muster; print(sorted(set(sys.modules) - before))"
    environ = {**os.environ, "PYTHONPATH": str(INIT.parents[1])}
    done = subprocess.run([sys.executable, "-S", "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == "['muster']\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'muster' has no attribute 'Estimator'"):
        muster.Estimator  # type: ignore[attr-defined]  # noqa: B018
