"""What a training script logs: lines in the rank's file, or on the screen where there is no run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from muster.tracking import LIST_CHUNK, Run

VARIABLES = ("MUSTER_METRICS", "MUSTER_RUN", "MUSTER_RANK", "MUSTER_OUTPUTS", "MUSTER_LOGS", "MUSTER_CHECKPOINTS")


class Scalar:
    """As numpy's and torch's are."""

    ndim = 0

    def __init__(self, value: Any) -> None:
        self._value = value

    def item(self) -> Any:
        return self._value


class Array:
    ndim = 1

    def tolist(self) -> list[float]:
        return [1.0, 2.0]


class LongDouble:
    """numpy's gives itself as its item."""

    ndim = 0

    def item(self) -> LongDouble:
        return self

    def __float__(self) -> float:
        return 1.5


@pytest.fixture
def metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "metrics.jsonl"
    values = (str(file), "run-1", "3", str(tmp_path / "o"), str(tmp_path / "l"), str(tmp_path / "c"))
    for name, value in zip(VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)
    return file


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_run_knows_who_and_where_it_is(metrics: Path, tmp_path: Path) -> None:
    run = Run.get_context()
    assert (run.id, run.rank, run.offline) == ("run-1", 3, False)
    assert (run.output_dir, run.log_dir, run.checkpoint_dir) == (tmp_path / "o", tmp_path / "l", tmp_path / "c")
    assert run.checkpoint_dir.is_dir()


def test_outside_a_run_it_prints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    run = Run.get_context()
    assert (run.id, run.rank, run.offline) == ("", 0, True)
    run.log("größe", 0.5, step=2)
    run.log_list("list", [1, 2])
    assert capsys.readouterr().out == "größe: 0.5 (step 2)\nlist: [1, 2]\n"
    assert run.output_dir == Path("outputs")
    assert (tmp_path / "outputs").is_dir()


@pytest.mark.parametrize(
    ("value", "logged"),
    [
        (1, 1),
        (0.1, 0.1),
        (True, True),
        ("text\n", "text\n"),
        (Scalar(0.25), 0.25),
        (Scalar(7), 7),
        (LongDouble(), 1.5),
        (Array(), [1.0, 2.0]),
        ({"a": Scalar(1), "b": [None, (2,)]}, {"a": 1, "b": [None, [2]]}),
        (math.nan, "NaN"),
        (Scalar(math.inf), "Infinity"),
        (-math.inf, "-Infinity"),
    ],
)
def test_a_value_is_one_line(metrics: Path, value: Any, logged: Any) -> None:
    Run.get_context().log("name", value, step=4)
    assert metrics.read_text().count("\n") == 1
    (row,) = rows(metrics)
    assert (row["name"], row["value"], row["step"]) == ("name", logged, 4)
    assert row["t"] > 1e9


def test_a_step_is_only_there_if_said(metrics: Path) -> None:
    Run.get_context().log("name", 1)
    assert set(rows(metrics)[0]) == {"name", "value", "t"}


def test_what_is_no_data_is_refused(metrics: Path) -> None:
    with pytest.raises(TypeError, match="only numbers, texts and JSON data can be logged, got <object"):
        Run.get_context().log("name", object())
    assert not metrics.exists()


def test_lists_rows_and_tables(metrics: Path) -> None:
    run = Run.get_context()
    run.log_list("list", (Scalar(i) for i in range(LIST_CHUNK + 1)))
    run.log_list("none", [])
    run.log_row("row", x=1, y=Scalar(2))
    run.log_table("table", {"x": [1, 2], "y": (3, 4)})
    values = [(row["name"], row["value"]) for row in rows(metrics)]
    assert values == [
        ("list", list(range(LIST_CHUNK))),
        ("list", [LIST_CHUNK]),
        ("none", []),
        ("row", {"x": 1, "y": 2}),
        ("table", {"x": [1, 2], "y": [3, 4]}),
    ]
    with pytest.raises(ValueError, match="x: 1, y: 2"):
        run.log_table("table", {"x": [1], "y": [1, 2]})


def test_lines_of_many_threads_do_not_mix(metrics: Path) -> None:
    run = Run.get_context()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: run.log(f"m{i}", "x" * 2000), range(200)))
    assert sorted(row["name"] for row in rows(metrics)) == sorted(f"m{i}" for i in range(200))


def test_importing_it_imports_nothing_else_of_muster() -> None:
    code = "import sys, muster.tracking; print(sorted(m for m in sys.modules if m.startswith('muster')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['muster', 'muster.tracking']"
