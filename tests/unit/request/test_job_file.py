"""Job files: texts as written, slips refused in one line, secrets looked up."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.core.errors import RequestError
from muster.request import job_file


def read(tmp_path: Path, text: str) -> dict[str, object]:
    file = tmp_path / "JOB.yaml"
    file.write_text(text, encoding="utf-8")
    return job_file.read_job_file(file)


def test_texts_stay_as_they_were_written(tmp_path: Path) -> None:
    text = """
node_count: 2
use_gpu: no
framework_version: 2.10
script_params: {--lr: 0.10, --flag: "", --date: 2024-01-01, --on: yes}
arguments: [1e5, 007, ~, "a b\\n$HOME 'q' ü", ""]
environment_variables: {N: 1, DEBUG: true}
python_version: 3.10
mpi_arguments: [--mca, btl, ^openib, -np, 2]
docker_arguments: [--memory, 1e3, --init, on]
apt_packages: [git]
build_steps: ["echo $HOME: yes"]
worker_count: 2
chief: yes
shm_size: 1g
mounts: ["/a b:/b:rw", {source: /c, target: /d, read_only: no}]
"""
    assert read(tmp_path, text) == {
        "node_count": 2,
        "use_gpu": False,
        "framework_version": "2.10",
        "script_params": {"--lr": "0.10", "--flag": "", "--date": "2024-01-01", "--on": "yes"},
        "arguments": ["1e5", "007", "~", "a b\n$HOME 'q' ü", ""],
        "environment_variables": {"N": "1", "DEBUG": "true"},
        "python_version": "3.10",
        "mpi_arguments": ["--mca", "btl", "^openib", "-np", "2"],
        "docker_arguments": ["--memory", "1e3", "--init", "on"],
        "apt_packages": ["git"],
        "build_steps": ["echo $HOME: yes"],
        "worker_count": 2,
        "chief": True,
        "shm_size": "1g",
        "mounts": ["/a b:/b:rw", {"source": "/c", "target": "/d", "read_only": False}],
    }


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    text = """
environment_variables: &shared {A: 1}
tags: {<<: *shared, B: 2}
arguments: null
"""
    assert read(tmp_path, text) == {"environment_variables": {"A": "1"}, "tags": {"A": "1", "B": "2"}, "arguments": None}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "wants parameters"),
        ("- a\n", "wants parameters"),
        ("a: 1\na: 2\n", "'a' is given twice"),
        ("1: x\n", "parameter names are texts"),
        ("a: [1\nb: 2\n", "not valid YAML"),
        ("a: !!python/object:os.system {}\n", "not valid YAML"),
        ("aws_conn_id: x\n", "'aws_conn_id' is a connection of Airflow"),
    ],
)
def test_a_slip_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="No such file"):
        job_file.read_job_file(tmp_path / "none.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="can't be read"):
        job_file.read_job_file(tmp_path / "binary")


def test_secrets_come_from_environment_or_file(tmp_path: Path) -> None:
    (tmp_path / "token file").write_text("a $b\n\n")
    values = job_file.secret_values({"A": "env:X", "B": "file:token file"}, tmp_path, {"X": " v\n"})
    assert values == {"A": " v\n", "B": "a $b\n"}


@pytest.mark.parametrize("source", ["env:NOT_SET", "file:none", "hunter2", "vault:hunter2"])
def test_a_secret_that_is_not_there_is_refused_and_never_said(tmp_path: Path, source: str) -> None:
    with pytest.raises(RequestError, match="secret TOKEN: ") as caught:
        job_file.secret_values({"TOKEN": source}, tmp_path, {})
    assert "hunter2" not in str(caught.value)
