"""What a build is given: which wheels pip is asked for, what a source is built with, and where packages are looked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from muster.packaging.environment.lock import pinned
from muster.packaging.environment.pip_settings import for_pip
from muster.packaging.environment.uv import without_credentials
from muster.packaging.image.build_context import BuildContext, Platform, build_requirements, local_platform
from muster.packaging.image.recipe import recipe_of
from muster.packaging.image.registry import registry_of, split_name
from packages import EXTENSION, make_source


def test_our_own_platform_needs_no_flags() -> None:
    assert local_platform().flags() == []
    assert dataclasses.replace(local_platform(), glibc=local_platform().glibc + 1).flags() == []


def test_another_platform_is_spelled_out_down_to_the_oldest() -> None:
    flags = Platform(python="3.99", machine="aarch64", glibc=17).flags()
    assert flags[:4] == ["--python-version", "3.99", "--implementation", "cp"]
    platforms = flags[5::2]
    assert platforms[0] == "manylinux_2_17_aarch64"
    assert platforms[-4:] == ["manylinux2014_aarch64", "manylinux2010_aarch64", "manylinux1_aarch64", "linux_aarch64"]


def test_an_older_c_library_takes_no_newer_wheels() -> None:
    flags = dataclasses.replace(local_platform(), glibc=local_platform().glibc - 1).flags()
    assert f"manylinux_2_{local_platform().glibc}_{local_platform().machine}" not in flags
    assert f"manylinux_2_{local_platform().glibc - 1}_{local_platform().machine}" in flags


def test_another_c_library_takes_its_own_wheels() -> None:
    platforms = dataclasses.replace(local_platform(), glibc=0).flags()[5::2]
    assert platforms == [
        f"musllinux_1_2_{local_platform().machine}",
        f"musllinux_1_1_{local_platform().machine}",
        f"linux_{local_platform().machine}",
    ]


def test_what_a_source_is_built_with(tmp_path: Path) -> None:
    assert build_requirements(make_source(tmp_path, "apple", "1.0", EXTENSION)) == ["setuptools>=61"]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"UV_DEFAULT_INDEX": "https://a/simple"}, {"PIP_INDEX_URL": "https://a/simple"}),
        ({"UV_INDEX": "own=https://b/simple https://c"}, {"PIP_EXTRA_INDEX_URL": "https://b/simple https://c"}),
        ({"UV_FIND_LINKS": "/one,/two"}, {"PIP_FIND_LINKS": "/one /two"}),
        ({"SSL_CERT_FILE": "/a.pem", "PIP_INDEX_URL": "https://d"}, {}),
    ],
)
def test_what_uv_was_told_pip_hears_too(said: dict[str, str], meant: dict[str, str]) -> None:
    assert for_pip(said) == meant


def test_no_password_of_an_index_is_told() -> None:
    assert without_credentials("Looking in indexes: http://me:p@ss@host:1/simple") == "Looking in indexes: http://host:1/simple"


def test_a_lock_by_its_names() -> None:
    lines = "# a comment\ntorch==2.13.0+cpu\nTyping_Extensions==4.1\nown @ https://host/own-1.0.tar.gz\n"
    assert pinned(lines) == {
        "torch": "torch==2.13.0+cpu",
        "typing-extensions": "Typing_Extensions==4.1",
        "own": "own @ https://host/own-1.0.tar.gz",
    }


@pytest.mark.parametrize(
    ("name", "repository", "tag", "registry"),
    [
        ("python", "python", "latest", "docker.io"),
        ("python:3.11-slim", "python", "3.11-slim", "docker.io"),
        ("host:5000/a/b", "host:5000/a/b", "latest", "host:5000"),
        ("ghcr.io/a/b:c", "ghcr.io/a/b", "c", "ghcr.io"),
        ("a@sha256:00", "a", "sha256:00", "docker.io"),
        ("localhost/a:1", "localhost/a", "1", "localhost"),
    ],
)
def test_names_of_images(name: str, repository: str, tag: str, registry: str) -> None:
    assert split_name(name) == (repository, tag)
    assert registry_of(name) == registry


def test_a_context_is_the_same_wherever_it_was_made(tmp_path: Path, wheels: Path) -> None:
    from muster.core.plan import EnvironmentRef

    wanted = recipe_of(EnvironmentRef(digest="sha256:0", lock="apple==1.0\n", python=local_platform().python), "base:1", "")
    assert wanted is not None

    def content(name: str) -> bytes:
        folder = tmp_path / name
        folder.mkdir(mode=0o700)
        context = BuildContext(folder=folder, cache=tmp_path / "home", platform=local_platform(), log=lambda line: None)
        context.fill(wanted)
        assert {path.name for path in (folder / "packages").iterdir()} == {"apple-1.0-py3-none-any.whl"}
        return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())

    assert content("one") == content("two")
