"""The steward: nodes are laid out once, started again only where they were lost, and what ranks left is never deleted."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from muster.node import processes
from muster.node.host import liveness, node_control
from muster.node.host.node_control import NodeControl
from muster.node.host.node_folder import LAUNCH, launch_of
from muster.targets.hosts import host_files


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
    return bool(NodeControl(root).do_again(folder=str(node), launch=launch)["lives"])


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


class Host:
    """A host's root folder, whose steward starts guardians that only say that they were born."""

    def __init__(self, root: Path) -> None:
        self.control = NodeControl(root)
        self.jobs = root / "jobs" / "job"
        self.started: list[Path] = []

    def node(self, attempt: int) -> Path:
        return self.jobs / f"g1-a{attempt}" / "node-0"

    def guardian(self, node: Path, marker: str) -> None:
        self.started.append(node)
        (node / "guardian.json").write_text(json.dumps({"pid": 0, "start": 1}))

    def start(self, attempt: int, launch: int = 1, before: tuple[int, ...] = ()) -> dict[str, Any]:
        told = json.dumps({"job_id": "job", "generation": 1, "attempt": attempt}).encode()
        files = io.BytesIO(host_files.tar_of({"assignment.json": (told, 0o600)}))
        earlier = [str(self.node(number)) for number in before]
        told_to = {"folder": str(self.node(attempt)), "launch": launch, "marker": "job", "mounts": [], "archive": ""}
        return self.control.do_start(**told_to, before=earlier, files=files)

    def give_up(self, attempt: int, launch: int = 1, keep: bool = True) -> dict[str, Any]:
        return self.control.do_give_up(folder=str(self.node(attempt)), launch=launch, keep=keep)

    def outputs(self) -> list[str]:
        return [str(file.relative_to(self.jobs)) for file in self.jobs.glob("g1-a*/node-0/work/outputs/*")]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Give a host on which the ranks of attempt 1 have left a model."""
    host = Host(tmp_path)
    monkeypatch.setattr(node_control, "_start_guardian", host.guardian)
    assert host.start(1) == {"ok": True}
    (host.node(1) / "work" / "outputs" / "model.pt").write_text("weights")
    return host


def test_what_ranks_left_outlives_launches_that_die_or_are_given_up(host: Host) -> None:
    taken = ["g1-a2/node-0/work/outputs/model.pt"]
    assert host.start(2, before=(1,)) == {"ok": True}
    assert host.outputs() == taken
    assert host.start(2, launch=2, before=(1,)) == {"ok": True}, "the launcher of the first has died"
    assert host.outputs() == taken
    assert launch_of(host.node(2)) == 2
    assert host.give_up(2, launch=2) == {"left": []}
    assert host.outputs() == taken
    assert not (host.node(2) / "assignment.json").exists()
    assert host.start(3, before=(2, 1)) == {"ok": True}
    assert host.outputs() == ["g1-a3/node-0/work/outputs/model.pt"]
    assert (host.node(3) / "ranks").is_dir()


def test_what_ranks_left_outlives_a_failure_between_its_two_moves(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("os.rename", no_space_after(2))  # the folder's own and the work's
        with pytest.raises(OSError, match="No space"):
            host.start(2, before=(1,))
    assert host.outputs() == ["g1-a2/node-0/work/outputs/model.pt"]
    assert host.start(2, before=(1,)) == {"ok": True}
    assert host.started[-1] == host.node(2)
    assert (host.node(2) / "ranks").is_dir()


def no_space_after(count: int) -> Callable[..., None]:
    """Give a rename that works so many times."""
    left, rename = iter(range(count)), os.rename

    def renamed(source: Path, target: Path) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    return renamed


def test_what_is_nowhere_is_told(host: Host) -> None:
    shutil.rmtree(host.node(1))
    refused = host.start(2, before=(1,))
    assert not refused["ok"]
    assert "clear the task to train anew" in refused["error"]


def test_a_launch_that_was_given_up_starts_nothing_however_late_it_comes(host: Host) -> None:
    assert host.give_up(2, launch=1, keep=False) == {"left": []}
    assert host.start(2, launch=1)["stale"]
    assert not host.node(2).exists()
    assert host.start(2, launch=2) == {"ok": True}
    assert host.give_up(3, launch=2, keep=False) == host.give_up(3, launch=1, keep=False) == {"left": []}
    assert host.start(3, launch=2)["stale"], "what was given up later counts"
    assert host.give_up(2, launch=1, keep=False) == {"left": []}
    assert host.node(2).exists(), "a later launch is somebody else's"


def test_a_launch_that_is_given_up_while_it_unpacks_starts_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out = node_control.node_folder.lay_out

    def slowly(node: Path, *given: Any, **more: Any) -> None:
        assert host.give_up(2, keep=False) == {"left": []}
        lay_out(node, *given, **more)

    monkeypatch.setattr(node_control.node_folder, "lay_out", slowly)
    assert host.start(2)["stale"]
    assert not host.node(2).exists()
    assert host.started == [host.node(1)]


def test_a_host_with_a_full_disk_gives_a_launch_up_all_the_same(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(node_control, "_write_private", full)
    assert host.give_up(1, keep=False) == {"left": []}
    assert not host.node(1).exists()


def test_what_is_asked_twice_is_started_once_and_goes_on_where_the_first_died(host: Host) -> None:
    assert host.start(1) == {"ok": True}
    assert host.started == [host.node(1)]
    (host.node(1) / "guardian.json").unlink()
    assert host.start(1) == {"ok": True}
    assert host.started == [host.node(1)] * 2


def test_a_guardian_may_be_about_to_be_born_as_soon_as_there_is_an_assignment(host: Host) -> None:
    (host.node(1) / "guardian.json").unlink()
    assert liveness.lives(str(host.node(1)))


def test_a_node_that_is_removed_leaves_nothing(host: Host) -> None:
    host.give_up(2, keep=False)
    host.control.do_remove([str(host.node(1)), str(host.node(2))])
    assert not host.jobs.exists()
