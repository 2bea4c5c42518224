"""Packages to a lock: resolved once for the same wishes, refused with the resolver's own reason."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from muster.core.errors import EnvironmentUnsolvable, RequestError
from muster.core.plan import EnvironmentRef
from muster.packaging.environment import lock, uv
from muster.packaging.environment.pip_settings import PipSettings
from packages import make_wheel


class Resolver:
    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.log: list[str] = []

    def __call__(self, *packages: str, python: str = sys.executable) -> EnvironmentRef:
        return lock.lock_packages(packages, python=python, cache=self.cache, log=self.log.append)


@pytest.fixture
def resolve(wheels: Path, tmp_path: Path) -> Resolver:
    return Resolver(tmp_path / "home of muster")


def refusal(resolve: Resolver, *packages: str) -> str:
    with pytest.raises(RequestError) as caught:
        resolve(*packages)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_everything_is_pinned_and_shown(resolve: Resolver) -> None:
    ref = resolve("apple")
    assert ref.lock == "apple==2.0\npear==1.5+cpu\n"
    assert ref.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert ref.digest.startswith("sha256:")
    assert ref.interpreter == ""
    assert "apple==2.0, pear==1.5+cpu" in resolve.log[-1]


def test_a_local_version_satisfies_its_public_one(resolve: Resolver) -> None:
    assert resolve("pear==1.5").lock == "pear==1.5+cpu\n"
    assert resolve("pear==1.5.*").lock == "pear==1.5+cpu\n"
    assert resolve("pear==1.5+cpu").lock == "pear==1.5+cpu\n"


def test_the_same_wishes_run_nothing(resolve: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve("apple<2")
    monkeypatch.setattr(uv.subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))

    def once() -> float:
        start = time.perf_counter()
        assert resolve("apple<2") == first
        return time.perf_counter() - start

    assert min(once() for _ in range(5)) < 0.005


def test_other_wishes_and_other_places_are_resolved_anew(
    resolve: Resolver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve("apple<2").digest != resolve("apple").digest
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    assert "apple" in refusal(resolve, "apple<2")


def test_the_same_lock_is_the_same_environment(resolve: Resolver) -> None:
    assert resolve("apple").digest == resolve("apple==2.0", "pear").digest
    assert resolve("apple", python="3.12").digest != resolve("apple").digest


@pytest.mark.parametrize(
    ("package", "said"),
    [
        ("no-such-package==1", "no-such-package was not found"),
        ("apple==3", "apple==3"),
        ("app le", "Expected one of"),
    ],
)
def test_the_resolvers_own_reason_is_given(resolve: Resolver, package: str, said: str) -> None:
    found = refusal(resolve, package)
    assert found.startswith(f"the packages {package} can't be resolved: ")
    assert said in found
    assert "No solution found" not in found


def test_contradicting_packages_are_unsolvable(resolve: Resolver) -> None:
    with pytest.raises(EnvironmentUnsolvable, match=r"apple==1\.0 and apple==2\.0"):
        resolve("apple==1.0", "apple==2.0")


def test_requirements_files_are_read_with_those_they_name(resolve: Resolver, tmp_path: Path) -> None:
    folder = tmp_path / "größe $HOME 'x'"
    folder.mkdir()
    file = folder / "deps of mine.txt"
    file.write_text("# what we need\napple  # any\n-c limits.txt\n")
    (folder / "limits.txt").write_text("apple<2\n")
    assert resolve(f"-r {file}").lock == "apple==1.0\n"
    (folder / "limits.txt").write_text("apple>=2\n")
    assert resolve(f"-r {file}", "pear").lock == "apple==2.0\npear==1.5+cpu\n"


def test_a_requirements_file_that_names_itself_ends(resolve: Resolver, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("apple<2\n-r b.txt\n")
    (tmp_path / "b.txt").write_text("pear\n-r a.txt\n")
    assert "apple==1.0" in resolve(f"-r {tmp_path / 'a.txt'}").lock


def test_a_requirements_file_that_can_not_be_read_is_refused(resolve: Resolver, tmp_path: Path) -> None:
    said = refusal(resolve, f"-r {tmp_path / 'none.txt'}")
    assert said.startswith(f"pip_requirements_file {str(tmp_path / 'none.txt')!r} can't be read: No such file")


def test_an_interpreter_that_is_none_is_refused(resolve: Resolver) -> None:
    with pytest.raises(EnvironmentUnsolvable, match="'/no/python' can't be run"):
        resolve("apple", python="/no/python")


def test_no_virtual_environment_leaks_in(resolve: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", "/not/there")
    monkeypatch.chdir(os.sep)
    assert resolve("apple")
    assert not [line for line in resolve.log if "VIRTUAL_ENV" in line]


def test_without_uv_it_is_said_what_to_install(resolve: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uv, "find_uv", lambda: "/no/uv")
    assert "install the package uv" in refusal(resolve, "apple")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "error: No solution found when resolving dependencies\n  cause: Because x was not found.\n\nhint: try z",
            "Because x was not found. (try z)",
        ),
        (
            "  \u00d7 No solution found when resolving dependencies:\n  ╰─▶ Because x depends\n      on y, it can't be.\n",
            "Because x depends on y, it can't be.",
        ),
        (
            "error: Request failed after 3 retries\n  cause: Failed to fetch: u\n  cause: refused",
            "Request failed after 3 retries: Failed to fetch: u: refused",
        ),
        ("Using Python 3.11\nResolved 2 packages in 1ms\nwarning: odd\n\x1b[31merror\x1b[0m: broken", "broken"),
        ("something else", "something else"),
        ("", ""),
    ],
)
def test_a_reason_is_one_line_without_ornaments(said: str, reason: str) -> None:
    assert uv.reason(said.splitlines()) == reason


def test_a_long_reason_is_cut() -> None:
    assert len(uv.reason(["error: " + "x" * 5000])) == uv.LONGEST_REASON + 1


def test_another_python_need_not_be_here(resolve: Resolver) -> None:
    ref = resolve("apple<2", python="3.99")
    assert (ref.lock, ref.python) == ("apple==1.0\n", "3.99")
    assert ref.digest != resolve("apple<2").digest


@pytest.mark.parametrize("in_file", [False, True])
def test_keras_beside_the_small_tensorflow_brings_no_large_one(resolve: Resolver, wheels: Path, in_file: bool) -> None:
    make_wheel(wheels, "tensorflow_cpu", "2.21.0")
    make_wheel(wheels, "tensorflow", "2.21.0")
    make_wheel(wheels, "tf_keras", "2.21.0", "tensorflow>=2.21", "pear")
    wishes = ["tensorflow-cpu", "tf-keras"]
    if in_file:
        (wheels.parent / "requirements.txt").write_text("\n".join(wishes))
        wishes = [f"-r {wheels.parent / 'requirements.txt'}"]
    assert resolve(*wishes).lock == "pear==1.5+cpu\ntensorflow-cpu==2.21.0\ntf-keras==2.21.0\n"
    assert "tensorflow==2.21.0" in resolve("tf-keras").lock
    assert "tensorflow==2.21.0" in resolve("tf-keras", "tensorflow", "tensorflow-cpu").lock


def test_no_password_of_an_index_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments of processes are open to all on the machine, logs to all who read them; a program that talks plays uv."""
    program, told = tmp_path / "uv", []
    program.write_text('#!/bin/sh\necho "$@"\necho "$UV_DEFAULT_INDEX"\necho "trying $UV_DEFAULT_INDEX" >&2\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setattr(uv, "find_uv", lambda: str(program))
    index = "https://me:s3cret@index.example/simple"
    settings = PipSettings(options={"index-url": (index,), "extra-index-url": (index,), "find-links": (index,)})
    done = uv.run_uv(["x"], settings=settings, environ=os.environ, folder=tmp_path, given="", log=told.append)
    arguments, variable = done.output.splitlines()
    assert "s3cret" not in arguments
    assert variable == index
    assert told == ["trying https://index.example/simple"]
    assert done.reason == "trying https://index.example/simple"
