"""A lock to an environment: built once, also by two at a time, and built again if it was left half done."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from muster.core.errors import EnvironmentUnsolvable
from muster.core.plan import EnvironmentRef
from muster.packaging.environment import lock, venv


@pytest.fixture
def ref(wheels: Path, tmp_path: Path) -> EnvironmentRef:
    return lock.lock_packages(("apple",), python=sys.executable, cache=tmp_path / "cache", log=print)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root of muster"


def seen_by(python: Path) -> str:
    code = "import apple, pear, sys; print(apple.VERSION, pear.VERSION, sys.prefix)"
    return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_environment_has_what_the_lock_says(ref: EnvironmentRef, root: Path) -> None:
    log: list[str] = []
    python = venv.ensure_venv(ref, root, log.append)
    assert python == venv.interpreter(ref, root)
    assert seen_by(python) == f"2.0 1.5+cpu {python.parent.parent}"
    assert any("building environment" in line for line in log)
    assert any("apple==2.0" in line for line in log), "what the installer says is passed on"
    assert (python.parent.parent / venv.LOCK).read_text() == ref.lock


def test_it_is_built_once(ref: EnvironmentRef, root: Path, wheels: Path) -> None:
    first = venv.ensure_venv(ref, root, print)
    for wheel in wheels.iterdir():
        wheel.unlink()
    assert venv.ensure_venv(ref, root, pytest.fail) == first


def test_two_at_a_time_build_it_once(ref: EnvironmentRef, root: Path) -> None:
    log: list[str] = []
    gate = threading.Barrier(3)

    def build(_: int) -> Path:
        gate.wait()
        return venv.ensure_venv(ref, root, log.append)

    with ThreadPoolExecutor(3) as pool:
        built = list(pool.map(build, range(3)))
    assert len(set(built)) == 1
    assert sum(line.startswith("building environment") for line in log) == 1
    assert seen_by(built[0])


def test_a_build_that_was_killed_is_done_again(ref: EnvironmentRef, root: Path) -> None:
    python = venv.ensure_venv(ref, root, print)
    home = python.parent.parent
    (home / venv.READY).unlink()
    (home / "left over").touch()
    assert seen_by(venv.ensure_venv(ref, root, print))
    assert not (home / "left over").exists()


def test_an_environment_whose_python_is_gone_is_built_again(ref: EnvironmentRef, root: Path) -> None:
    python = venv.ensure_venv(ref, root, print)
    python.unlink()
    python.symlink_to("/no/python")
    assert seen_by(venv.ensure_venv(ref, root, print))


def test_what_can_not_be_installed_is_said_and_leaves_nothing(ref: EnvironmentRef, root: Path) -> None:
    wrong = dataclasses.replace(ref, lock="apple==9.9\n", digest="sha256:" + "9" * 64)
    with pytest.raises(EnvironmentUnsolvable, match=r"environment sha256:999999999999 can't be built: .*apple==9\.9") as caught:
        venv.ensure_venv(wrong, root, print)
    assert "\n" not in str(caught.value)
    assert not venv.interpreter(wrong, root).parent.parent.exists()


def test_a_python_that_is_not_there_is_said(ref: EnvironmentRef, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    with pytest.raises(EnvironmentUnsolvable, match=r"3\.99"):
        venv.ensure_venv(dataclasses.replace(ref, python="3.99"), root, print)
