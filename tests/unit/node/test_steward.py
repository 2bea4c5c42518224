"""The steward: a node is started again only where it was lost, by its own launch, and not told to end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from muster.node import processes
from muster.node.steward import LAUNCH, Steward


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """Give the folder of a node whose guardian lives: this process."""
    folder = tmp_path / "jobs" / "job" / "g1-a1" / "node-1"
    folder.mkdir(parents=True)
    born = {"pid": os.getpid(), "start": processes.start_time(os.getpid())}
    (folder / "guardian.json").write_text(json.dumps(born))
    (folder / "assignment.json").write_text(json.dumps({"job_id": "job", "generation": 1, "attempt": 1}))
    (folder / LAUNCH).write_text("2")
    return folder


def again(root: Path, node: Path, launch: int = 2) -> bool:
    return bool(Steward(root).do_again(folder=str(node), launch=launch)["lives"])


def test_one_that_lives_is_left_alone(tmp_path: Path, node: Path) -> None:
    assert again(tmp_path, node)
    assert json.loads((node / "guardian.json").read_text())["pid"] == os.getpid()


def test_one_that_is_told_to_end_another_launch_s_or_gone_is_not_started(tmp_path: Path, node: Path) -> None:
    (node / "guardian.json").unlink()
    os.utime(node / "assignment.json", (1.0, 1.0))  # long ago: nobody is about to be born
    assert not again(tmp_path, node, launch=1)
    (node / "cancel.json").write_text("{}")
    assert not again(tmp_path, node)
    (node / "cancel.json").unlink()
    (node / "assignment.json").unlink()
    assert not again(tmp_path, node)
    assert not (node / "guardian.json").exists()
