"""Whether the script can run at all, and which commit it is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from muster.core.errors import RequestError
from muster.core.job import Environment, TrainingJob
from muster.packaging.code import source


def job(folder: Path, script: str = "train.py", interpreter: str = "") -> TrainingJob:
    environment = Environment(interpreter=interpreter)
    return TrainingJob(name="x", framework="any", source_directory=str(folder), entry_script=script, environment=environment)


def refusal(asked: TrainingJob) -> str:
    with pytest.raises(RequestError) as caught:
        source.check_entry(asked)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_script_that_is_there_and_compiles_is_fine(weird_tmp_path: Path) -> None:
    (weird_tmp_path / "a b.py").write_text('"\\d"\nprint(1)\n')  # its warning is for its author, when it runs
    source.check_entry(job(weird_tmp_path, "a b.py"))


def test_a_command_needs_its_folder_only(tmp_path: Path) -> None:
    source.check_entry(TrainingJob(name="x", framework="any", command=("true",)))
    source.check_entry(TrainingJob(name="x", framework="any", command=("true",), source_directory=str(tmp_path)))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert "is not there" in refusal(job(tmp_path / "nothing"))
    (tmp_path / "file").touch()
    assert "is no folder" in refusal(job(tmp_path / "file"))


def test_a_missing_script_is_refused_by_name(tmp_path: Path) -> None:
    assert refusal(job(tmp_path)).startswith("entry_script 'train.py' is not there in source_directory")
    (tmp_path / "train.py").mkdir()
    assert refusal(job(tmp_path)).startswith("entry_script 'train.py' is no file in source_directory")


def test_a_script_that_is_a_link_to_the_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "train.py").touch()
    (tmp_path / "code" / "train.py").symlink_to("../train.py")
    assert "is a link to" in refusal(job(tmp_path / "code"))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (b"x = 1\ndef f(:\n", "train.py:2: invalid syntax: 'def f(:'"),
        (b"if True:\nx = 1\n", "train.py:2: expected an indented block after 'if' statement on line 1: 'x = 1'"),
        (b"return 1\n", "train.py:1: 'return' outside function"),
        (b"x = '\xff'\n", "(unicode error) 'utf-8' codec can't decode"),
        (b"x = 1\0\n", "null bytes"),
    ],
)
def test_a_syntax_error_is_said_with_its_line(tmp_path: Path, code: bytes, said: str) -> None:
    (tmp_path / "train.py").write_bytes(code)
    found = refusal(job(tmp_path))
    assert found.startswith("entry_script has a syntax error: train.py:")
    assert said in found


def test_the_ranks_own_python_has_the_last_word(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("def f(:\n")
    asked = tmp_path / "python"
    asked.symlink_to(sys.executable)
    assert "syntax error" in refusal(job(tmp_path, interpreter=str(asked)))
    newer = tmp_path / "newer python"
    newer.write_text("#!/bin/sh\nexit 0\n")
    newer.chmod(0o755)
    source.check_entry(job(tmp_path, interpreter=str(newer)))
    source.check_entry(job(tmp_path, interpreter="/only/on/the/nodes/python"))


# -- git


def git(folder: Path, *arguments: str) -> str:
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    environ = {**os.environ, **who, "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(["git", "-C", folder, *arguments], env=environ, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "train.py").write_text("x = 1\n")
    git(tmp_path, "init", "--quiet", "--initial-branch", "work", str(folder))
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def test_a_folder_without_git_is_described_by_nothing_and_costs_nothing(tmp_path: Path) -> None:
    start = time.perf_counter()
    assert source.describe(tmp_path) == ()
    assert time.perf_counter() - start < 0.02


def test_remote_branch_commit_and_dirty(repository: Path) -> None:
    git(repository, "remote", "add", "other", "ssh://git@example.org/other.git")
    git(repository, "remote", "add", "origin", "https://me:token@example.org/x.git?y=z")
    said = dict(source.describe(repository / "code"))
    assert said == {
        "remote": "https://example.org/x.git",
        "branch": "work",
        "commit": git(repository, "rev-parse", "HEAD"),
        "dirty": "false",
    }
    (repository / "elsewhere").write_text("not of this job")
    assert dict(source.describe(repository / "code"))["dirty"] == "false"
    (repository / "code" / "new.py").write_text("")
    assert dict(source.describe(repository / "code"))["dirty"] == "true"


def test_a_repository_without_remote_or_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch", "work", str(tmp_path))
    assert dict(source.describe(tmp_path)) == {"remote": "", "branch": "work", "commit": "(initial)", "dirty": "false"}


def test_a_broken_repository_is_described_by_nothing(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("gitdir: /nowhere\n")
    assert source.describe(tmp_path) == ()


def test_no_git_on_the_machine(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert source.describe(repository) == ()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pass@host/x.git", "https://host/x.git"),
        ("https://token@host:8443/x.git", "https://host:8443/x.git"),
        ("https://a:b@c@host/x", "https://host/x"),
        ("git@host:x/y.git", "git@host:x/y.git"),
        ("/srv/git/x.git", "/srv/git/x.git"),
        ("https://[broken", ""),
    ],
)
def test_credentials_are_taken_out_of_urls(url: str, shown: str) -> None:
    assert source.public_url(url) == shown
