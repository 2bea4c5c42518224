"""`muster` from command to exit, through the local target and a real store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from muster.node import processes
from store_server import StoreServer, wait_until

TRAIN = """
import json, os, pathlib, sys
rank = os.environ["RANK"]
print("hello from", rank, flush=True)
if rank == "0":
    pathlib.Path("outputs/seen.json").write_text(json.dumps({"argv": sys.argv[1:], "value": os.environ.get("VALUE")}))
    pathlib.Path("outputs/folder").mkdir()
    pathlib.Path("outputs/folder/größe 1.txt").write_text("1")
"""
HANG = """
import os, pathlib, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("hanging", flush=True)
time.sleep(600)
"""
DIE = """
import os, signal, time
if os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
"""
RAISE = """
import os, time
if os.environ["RANK"] == "1":
    raise ValueError("boom  at step 7")
time.sleep(600)
"""
WAIT = """
import pathlib, sys, time
print("hanging", flush=True)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.02)
pathlib.Path("outputs/x").write_text("x")
"""
HOSTILE = ["a b", "q\"uo'te", "line\nbreak", "$HOME `id` ; true", "größe ✓", ""]


@dataclass(frozen=True)
class Shell:
    """A folder in which `muster` is called, with a store and a home of its own."""

    folder: Path
    environ: dict[str, str]

    def job(self, script: str = TRAIN, **parameters: Any) -> Path:
        """Write a job of two nodes into a source folder."""
        (self.folder / "source dir").mkdir(exist_ok=True)
        (self.folder / "source dir" / "train.py").write_text(script)
        defaults = {
            "name": "job",
            "framework": "pytorch",
            "source_directory": "source dir",
            "entry_script": "train.py",
            "node_count": 2,
            "distributed_backend": "gloo",
            "environment": {"interpreter": sys.executable, "user_managed_dependencies": True},
        }
        given = {name: value for name, value in {**defaults, **parameters}.items() if value is not None}
        file = self.folder / "JOB.yaml"
        file.write_text(json.dumps(given))
        return file

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "muster.cli", *words]

    def muster(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*words),
            cwd=self.folder,
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv(*words), cwd=self.folder, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run_json(self, job: Path) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
        done = self.muster("run", "--json", str(job))
        return done, [json.loads(line) for line in done.stdout.split("\n") if line]

    def left_of(self, run: str) -> list[int]:
        return processes.marked(f"MUSTER_JOB={run}/g1/a1")


@pytest.fixture
def shell(store_server: StoreServer, tmp_path: Path) -> Shell:
    folder = tmp_path / "a folder $x"
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MUSTER_"))}
    own = {"MUSTER_HOME": str(tmp_path / "home"), "MUSTER_STORE": store_server.fresh_uri(), "HOME": str(tmp_path)}
    return Shell(folder, {**kept, **store_server.environment, **own})


def started(process: subprocess.Popen[str]) -> str:
    """Read until the ranks have said something, and give the run's id."""
    run = ""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[muster] run "):
            run = line.removeprefix("[muster] run ").strip()
        if "hanging" in line:
            return run
    raise AssertionError(f"the run ended early: {process.communicate()}")


def test_a_run_completes_and_everything_is_found_again(shell: Shell) -> None:
    done, events = shell.run_json(shell.job(arguments=HOSTILE, environment_variables={"VALUE": HOSTILE[2]}))
    assert (done.returncode, done.stderr) == (0, "")
    last = events.pop()
    assert set(last) == {"run", "state", "verdict", "manifest"}
    assert (last["state"], last["verdict"]) == ("Completed", None)
    assert last["manifest"].startswith("s3://")
    assert all({"t", "k", "n"} <= set(event) for event in events)
    lines = [(event["n"], event["rank"], event["text"]) for event in events if event["k"] == "line"]
    assert sorted(lines) == [(0, 0, "hello from 0"), (1, 1, "hello from 1")]
    check_record(shell, last)
    check_files(shell, last["run"])
    logs = shell.muster("logs", last["run"])
    assert "[node 0 rank 0] hello from 0\n" in logs.stdout
    assert "[node 1 rank 1] hello from 1\n" in logs.stdout
    assert shell.muster("logs", last["run"], "-f", "--rank", "1").stdout == "[node 1 rank 1] hello from 1\n"
    assert shell.muster("cancel", last["run"]).returncode == 0


def check_record(shell: Shell, last: dict[str, Any]) -> None:
    record = json.loads(shell.muster("show", last["run"], "--json").stdout)
    about_the_run = {"run", "state", "generation", "attempts", "times", "verdict"}
    wanted = about_the_run | {"nodes", "ranks", "environment", "snapshot", "outputs"}
    assert wanted <= set(record)
    assert (record["run"], record["state"], record["generation"]) == (last["run"], "Completed", 1)
    assert len(record["attempts"]) == 1
    assert len(record["nodes"]) == 2
    assert [rank["exit_code"] for rank in record["ranks"]] == [0, 0]
    assert {"preparing", "starting", "running", "finalizing"} <= set(record["times"])
    listed = [json.loads(line) for line in shell.muster("ls", "--json").stdout.splitlines()]
    assert [entry["run"] for entry in listed] == [last["run"]]
    assert last["run"] in shell.muster("ls").stdout
    assert shell.muster("show", last["run"]).stdout.startswith(f"{last['run']}  Completed\n")


def check_files(shell: Shell, run: str) -> None:
    done = shell.muster("download", run, "outputs/*", "here")
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads((shell.folder / "here" / "outputs" / "seen.json").read_text())
    assert seen == {"argv": HOSTILE, "value": HOSTILE[2]}
    assert (shell.folder / "here" / "outputs" / "folder" / "größe 1.txt").read_text() == "1"
    nothing = shell.muster("download", run, "none/*", "here")
    assert nothing.returncode == 2
    assert nothing.stderr.count("\n") == 1


def test_a_killed_rank_is_the_first_line_of_the_error(shell: Shell) -> None:
    done = shell.muster("run", str(shell.job(DIE)))
    assert done.returncode == 1
    first = done.stderr.splitlines()[0]
    assert first.startswith("muster: rank 1 on node 1")
    assert "signal 9 SIGKILL" in first
    assert done.stdout.splitlines()[-1].startswith("[muster] job-")


def test_an_exception_is_named_with_its_rank(shell: Shell) -> None:
    done, events = shell.run_json(shell.job(RAISE))
    assert done.returncode == 1
    assert done.stderr.startswith("muster: rank 1 on node 1")
    assert "ValueError: boom at step 7" in done.stderr
    assert events[-1]["state"] == "Failed"
    assert events[-1]["verdict"]["rank"] == 1
    assert events[-1]["manifest"] is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_run_and_leaves_nothing(shell: Shell, number: signal.Signals) -> None:
    with shell.start("run", str(shell.job(HANG))) as process:
        run = started(process)
        process.send_signal(number)
        process.communicate(timeout=120)
    assert process.returncode == 130
    assert shell.left_of(run) == []
    assert json.loads(shell.muster("show", run, "--json").stdout)["state"] == "Canceled"


def test_cancel_ends_a_run_of_another_shell(shell: Shell) -> None:
    with shell.start("run", str(shell.job(HANG))) as process:
        run = started(process)
        assert shell.muster("cancel", run).stdout == f"{run} was cancelled\n"
        assert shell.left_of(run) == []
        process.communicate(timeout=120)
    assert process.returncode == 130


def test_a_run_outlives_its_terminal_and_its_logs_can_be_followed(shell: Shell) -> None:
    with shell.start("run", str(shell.job(HANG))) as process:
        run = started(process)
        process.kill()
        process.communicate(timeout=120)
    assert shell.left_of(run)
    wait_until(lambda: shell.muster("show", run).returncode == 0, what="the run is known to the store")
    with shell.start("logs", "-f", run) as following:
        assert following.stdout is not None
        wait_until(lambda: "hanging" in following.stdout.readline(), what="the lines of the run")  # type: ignore[union-attr]
        assert shell.muster("cancel", run).returncode == 0
        following.communicate(timeout=120)
    assert following.returncode == 0
    assert shell.left_of(run) == []


def test_a_reader_that_goes_away_is_no_error(shell: Shell) -> None:
    many = "for i in range(20000): print('line', i)"
    with shell.start("run", str(shell.job(many))) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
    assert (process.returncode, said) == (0, "")
    run = shell.muster("ls").stdout.splitlines()[1].split()[0]
    with shell.start("logs", run) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
    assert said == ""


def test_secrets_reach_the_ranks_and_nothing_else(shell: Shell) -> None:
    script = "import os, pathlib; pathlib.Path('outputs/length').write_text(str(len(os.environ['TOKEN'])))"
    value = f"secret-{uuid.uuid4().hex}"
    (shell.folder / "token").write_text(value + "\n")
    done, events = shell.run_json(shell.job(script, secrets={"TOKEN": "file:token"}))
    assert done.returncode == 0
    run = events[-1]["run"]
    assert shell.muster("download", run, "outputs/length", "here").returncode == 0
    assert (shell.folder / "here" / "outputs" / "length").read_text() == str(len(value))
    assert value not in done.stdout + shell.muster("show", run, "--json").stdout
    home = Path(shell.environ["MUSTER_HOME"])
    assert not [file for file in home.rglob("*") if file.is_file() and value.encode() in file.read_bytes()]


Change = Callable[[Shell], tuple[list[str], dict[str, str]]]


def with_job(*flags: str, environ: dict[str, str] | None = None, **parameters: Any) -> Change:
    return lambda shell: (["run", str(shell.job(**parameters)), *flags], environ or {})


BAD_REQUESTS: dict[str, tuple[Change, str]] = {
    "script missing": (with_job(entry_script="none.py"), "none.py"),
    "script outside": (with_job(entry_script="../JOB.yaml"), "../JOB.yaml"),
    "no nodes": (with_job(node_count=0), "node_count"),
    "negative processes": (with_job(process_count_per_node=-1), "process_count_per_node"),
    "not a number": (with_job(node_count="two"), "two"),
    "unknown parameter": (with_job(nodes=2), "nodes"),
    "unknown framework": (with_job(framework="torch"), "torch"),
    "owned variable": (with_job(environment_variables={"MASTER_ADDR": "x"}), "MASTER_ADDR"),
    "no backend": (with_job(distributed_backend=None), "distributed_backend"),
    "syntax error": (with_job(script="def f(:\n"), "train.py"),
    "unknown target": (with_job("--target", "gpus"), "gpus"),
    "no store": (with_job(environ={"MUSTER_STORE": ""}), "no store"),
    "store is none": (with_job("--store", "bucket/x"), "s3://"),
    "unreachable store": (with_job(environ={"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}), "127.0.0.1:9"),
    "wrong credentials": (with_job(environ={"AWS_SECRET_ACCESS_KEY": "wrong"}), "secret key"),
    "no bucket": (with_job("--store", "s3://nowhere/x"), "nowhere"),
    "secret missing": (with_job(secrets={"TOKEN": "env:NOT_SET"}), "NOT_SET"),
    "unknown package": (
        with_job(environment=None, framework="any", pip_packages=["muster-no-such-package==1"]),
        "muster-no-such-package",
    ),
    "unknown run": (lambda shell: (["show", "none"], {}), "none"),
    "cancel of an unknown run": (lambda shell: (["cancel", "none"], {}), "none"),
    "ls of an unreachable store": (lambda shell: (["ls"], {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}), "127.0.0.1:9"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_is_one_clear_line_and_exit_2(shell: Shell, case: str) -> None:
    change, said = BAD_REQUESTS[case]
    words, environ = change(shell)
    done = shell.muster(*words, **environ)
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("muster: ")
    assert said in done.stderr
    assert "hello" not in done.stdout


def test_the_flag_wins_over_file_environment_and_toml(shell: Shell, store_server: StoreServer) -> None:
    toml = f'[store]\nuri = "s3://{store_server.bucket}/toml"\n[targets.here]\ntype = "local"\nroot = "own root"\n'
    (shell.folder / "muster.toml").write_text(toml)
    uri = f"s3://{store_server.bucket}/flag-{uuid.uuid4().hex}"
    job = shell.job(store=f"s3://{store_server.bucket}/file", compute_target="here")
    assert shell.muster("run", str(job), "--store", uri).returncode == 0
    assert len(shell.muster("ls", "--store", uri).stdout.splitlines()) == 2
    assert (shell.folder / "own root" / "jobs").is_dir()


def test_outputs_that_could_not_be_stored_are_committed_later(shell: Shell, tmp_path: Path) -> None:
    own = StoreServer(tmp_path / "own store")
    own.start()
    shell.environ.update(own.environment, MUSTER_STORE=f"s3://{own.bucket}/x")
    try:
        gate = tmp_path / "gate"
        job = shell.job(WAIT, arguments=[str(gate)], store_patience_seconds=6)
        with shell.start("run", str(job)) as process:
            run = started(process)
            own.stop()
            gate.touch()
            logs = Path(shell.environ["MUSTER_HOME"]) / "jobs" / run
            wait_until(lambda: any("could not be stored" in log.read_text() for log in logs.rglob("events.jsonl")))
            own.start()  # else the last words wait for the store too
            _, said = process.communicate(timeout=120)
        assert process.returncode == 1
        assert f"muster commit {run}" in said
        done = shell.muster("commit", run)
        assert (done.returncode, done.stderr) == (0, "")
        assert shell.muster("download", run, "outputs/*", "here").returncode == 0
    finally:
        own.stop()
