"""Conda files: what is taken of them, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.core.errors import RequestError
from muster.core.job import Environment
from muster.packaging.environment import conda_file

WHOLE = """
name: training
channels: [conda-forge, defaults]
dependencies:
  - python=3.12.4
  - pip>=23
  - pip:
      - numpy==2.1
      - "torch; python_version > '3'"
      - -r more/needed.txt
"""


def asked(tmp_path: Path, text: str, **fields: str) -> Environment:
    file = tmp_path / "all in.yml"
    file.write_text(text, encoding="utf-8")
    return Environment(packages=(f"--conda-file {file}",), **fields)


def test_python_and_the_pip_section_are_taken(tmp_path: Path) -> None:
    assert conda_file.spelled_out(asked(tmp_path, WHOLE, base_image="debian:12")) == Environment(
        packages=("numpy==2.1", "torch; python_version > '3'", f"-r {tmp_path}/more/needed.txt"),
        python="3.12",
        base_image="debian:12",
    )


def test_other_environments_are_left_as_they_are() -> None:
    for environment in (Environment(), Environment(packages=("numpy", "-r /x"), python="3.11"), Environment(image="x")):
        assert conda_file.spelled_out(environment) is environment


@pytest.mark.parametrize("line", ["python=3.11", "python==3.11", "python = 3.11.*", "python=3.11.9"])
def test_python_is_said_exactly(line: str, tmp_path: Path) -> None:
    assert conda_file.spelled_out(asked(tmp_path, f"dependencies: ['{line}']")).python == "3.11"


@pytest.mark.parametrize("text", ["dependencies: [python]", "dependencies: [pip, pip: ]", "dependencies: []"])
def test_a_file_may_say_little(text: str, tmp_path: Path) -> None:
    assert conda_file.spelled_out(asked(tmp_path, text)) == Environment()


def test_python_may_be_said_twice_if_it_is_the_same(tmp_path: Path) -> None:
    assert conda_file.spelled_out(asked(tmp_path, WHOLE, python="3.12")).python == "3.12"
    with pytest.raises(RequestError, match=r"python_version is '3.11', but .* says 3.12"):
        conda_file.spelled_out(asked(tmp_path, WHOLE, python="3.11"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "dependencies: [numpy=1.26]",
            "the conda package 'numpy=1.26'; conda packages come later: put it into the pip section",
        ),
        ("dependencies: [conda-forge::gcc]", "the conda package 'conda-forge::gcc'"),
        ("dependencies: [python-dateutil]", "the conda package 'python-dateutil'"),
        ("dependencies: [pipx]", "the conda package 'pipx'"),
        ("dependencies: ['python>=3.9']", "give the exact version, such as python=3.11"),
        ("dependencies: [{conda: [x]}]", "has {'conda': ['x']} in its dependencies"),
        ("dependencies: [{pip: numpy}]", "in its dependencies"),
        ("dependencies: [3]", "has 3 in its dependencies"),
        ("dependencies: [{pip: ['--index-url x']}]", "'--index-url x' in its pip section"),
        ("dependencies: [{pip: [2]}]", "has 2 in its pip section"),
        ("dependencies: numpy", "has no list 'dependencies'"),
        ("name: x", "has no list 'dependencies'"),
        (
            "variables: {A: b}\ndependencies: []",
            "has 'variables', which is not offered in this release; use environment_variables",
        ),
        ("[1]", "wants a mapping"),
        ("a: [", "is not valid YAML"),
        ("!!python/object:os.system {}", "is not valid YAML"),
    ],
)
def test_what_only_conda_could_do_is_refused_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        conda_file.spelled_out(asked(tmp_path, text))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="can't be read: No such file"):
        conda_file.spelled_out(Environment(packages=(f"--conda-file {tmp_path}/none.yml",)))
