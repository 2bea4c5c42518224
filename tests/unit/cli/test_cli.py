"""The command line's words: what is refused, what codes mean, how events and records read."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from muster import __version__, cli
from muster.cli import formatting
from muster.core.event import Event

HEAVY = ("boto3", "botocore", "cryptography", "airflow", "yaml", "asyncio")


def muster(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "muster.cli", *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_version_is_said() -> None:
    assert muster("--version").stdout == f"muster {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["rnu"], "'rnu'"),
        (["run"], "JOB.yaml"),
        (["run", "x.yaml", "--taget", "y"], "--taget"),
        (["ls", "-n", "0"], "from 1 on, got '0'"),
        (["logs", "x", "--rank", "-1"], "--rank"),
        (["logs", "x", "--rank", "one"], "from 0 on, got 'one'"),
        (["run", "not there.yaml"], "No such file"),
    ],
)
def test_a_bad_command_line_is_one_line_and_exit_2(arguments: list[str], said: str) -> None:
    done = muster(*arguments)
    assert done.returncode == cli.BAD_REQUEST
    assert done.stdout == ""
    assert done.stderr.startswith("muster: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_debug_shows_where_an_error_came_from() -> None:
    assert "Traceback" in muster("run", "not there.yaml", MUSTER_DEBUG="1").stderr


def test_the_start_imports_nothing_heavy() -> None:
    code = f"import sys, muster.cli; muster.cli._parser(); print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_run_needs_no_boto3_and_no_airflow_in_the_command_itself() -> None:
    code = "import sys, muster.cli.run; print([m for m in ('boto3', 'botocore', 'airflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def event(kind: str, node: int = 0, **data: object) -> Event:
    return Event(time=0.0, kind=kind, node=node, data=data)


@pytest.mark.parametrize(
    ("item", "line"),
    [
        (event("line", 1, rank=3, text="a  b ü"), "[node 1 rank 3] a  b ü"),
        (event("state", state="Running"), "[muster] Running"),
        (event("note", 2, text="low on disk"), "[node 2] low on disk"),
        (event("note", formatting.HERE, text="run x"), "[muster] run x"),
        (event("metric", rank=0, name="loss", value=0.5, step=3), "[node 0 rank 0] loss = 0.5 at step 3"),
        (event("facts", facts={}), None),
    ],
)
def test_events_read_as_lines(item: Event, line: str | None) -> None:
    assert formatting.event_line(item) == line


@pytest.mark.parametrize(("seconds", "said"), [(0.04, "0.0s"), (59.94, "59.9s"), (187, "3m07s"), (7500, "2h05m")])
def test_durations(seconds: float, said: str) -> None:
    assert formatting.duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (3_100_000, "3.1 MB"), (10**16, "10000.0 TB")]
)
def test_sizes(count: int, said: str) -> None:
    assert formatting.format_size(count) == said


def test_a_record_reads_with_its_verdict_first() -> None:
    record = {
        "run": "digits-1",
        "state": "Failed",
        "generation": 1,
        "attempt": 2,
        "created": 1.0,
        "ended": 5.0,
        "times": {"preparing": 1.0, "running": 2.5},
        "nodes": [{"node": 0, "host": "a"}, {"node": 1, "host": "b"}],
        "ranks": [
            {"rank": 0, "node": 0, "pid": 1, "exit_code": None, "signal": 15},
            {"rank": 1, "node": 1, "pid": 2, "exit_code": 1, "signal": None},
            {"rank": 2, "node": 1},
        ],
        "outputs": [{"path": "outputs/model.pt", "size": 2048}],
        "verdict": {"summary": "rank 1 on node 1 (b) failed first: boom (exit 1)"},
        "metrics": {"accuracy": 0.97},
    }
    lines = list(formatting.record_lines(record))
    assert lines[:2] == ["digits-1  Failed", "  rank 1 on node 1 (b) failed first: boom (exit 1)"]
    assert "  rank 0 on node 0 a: ended by signal 15" in lines
    assert "  rank 1 on node 1 b: exit 1" in lines
    assert "  rank 2 on node 1 b: not started" in lines
    assert "  file outputs/model.pt  2.0 KB" in lines
    assert any(line.endswith("preparing 1.0s, running 2.5s") for line in lines)
    assert formatting.run_row(record)[:3] == ("digits-1", "Failed", "3 on 2")
    assert formatting.run_row(record)[-1] == "4.0s"


def test_a_table_is_as_wide_as_its_cells() -> None:
    assert list(formatting.table([("RUN", "STATE"), ("a-long-one", "x")])) == ["RUN         STATE", "a-long-one  x"]


def test_roles_that_nodes_share_unevenly_are_counted_and_named() -> None:
    ranks = [
        {"rank": 0, "node": 1, "role": "worker", "exit_code": 0},
        {"rank": 1, "node": 0, "role": "worker", "exit_code": 0},
        {"rank": 2, "node": 0, "role": "ps", "signal": 15},
    ]
    nodes = [{"node": 0, "host": "a"}, {"node": 1, "host": "b"}]
    record = {"run": "r", "state": "Completed", "generation": 1, "ranks": ranks, "nodes": nodes}
    assert formatting.run_row(record)[2] == "3 on 2"
    lines = list(formatting.record_lines(record))
    assert "  rank 2 (ps) on node 0 a: ended by signal 15" in lines
    assert "  rank 1 on node 0 a: exit 0" in lines
