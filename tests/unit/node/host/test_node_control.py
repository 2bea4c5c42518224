"""Node control: folders are created once, nodes restarted only where they were lost, and the ranks' outputs never deleted."""

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

from muster.core.paths import NodePaths
from muster.node import cancel_request, processes
from muster.node.host import guardian_process, liveness, node_control
from muster.node.host.node_control import AbandonLaunch, NodeControl, RemoveNodes, RestartNode, StartNode, StartReply
from muster.node.host.node_folder import LAUNCH, launch_of
from muster.targets.hosts import host_files

STARTED = StartReply()


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """Return the folder of a node whose guardian lives: this process."""
    folder = tmp_path / "jobs" / "job" / "g1-a1" / "node-1"
    folder.mkdir(parents=True)
    born = {"pid": os.getpid(), "start": processes.start_time(os.getpid())}
    (folder / "guardian.json").write_text(json.dumps(born))
    (folder / "assignment.json").write_text(json.dumps({"job_id": "job", "generation": 1, "attempt": 1}))
    (folder / LAUNCH).write_text("2")
    return folder


def control(root: Path, files: bytes = b"") -> NodeControl:
    return NodeControl(root, io.BytesIO(files))


def again(root: Path, node: Path, launch: int = 2) -> bool:
    return control(root).restart_node(RestartNode(folder=str(node), launch=launch))


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
    """A host's root folder, whose guardians only write that they have started."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.jobs = root / "jobs" / "job"
        self.started: list[Path] = []

    def node(self, attempt: int) -> Path:
        return self.jobs / f"g1-a{attempt}" / "node-0"

    def guardian(self, node: NodePaths, entry: str, marker: str) -> None:
        self.started.append(node.root)
        node.guardian.write_text(json.dumps({"pid": 0, "start": 1}))

    def start(self, attempt: int, launch: int = 1, before: tuple[int, ...] = ()) -> StartReply:
        assignment = json.dumps({"job_id": "job", "generation": 1, "attempt": attempt}).encode()
        files = host_files.tar_of({"assignment.json": (assignment, 0o600)})
        earlier = tuple(str(self.node(number)) for number in before)
        request = StartNode(folder=str(self.node(attempt)), launch=launch, marker="job", earlier=earlier)
        return control(self.root, files).start_node(request)

    def abandon(self, attempt: int, launch: int = 1, keep: bool = True) -> tuple[str, ...]:
        request = AbandonLaunch(folder=str(self.node(attempt)), launch=launch, keep_outputs=keep)
        return control(self.root).abandon_launch(request)

    def outputs(self) -> list[str]:
        return [str(file.relative_to(self.jobs)) for file in self.jobs.glob("g1-a*/node-0/work/outputs/*")]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Return a host on which the ranks of attempt 1 have left a model."""
    host = Host(tmp_path)
    monkeypatch.setattr(guardian_process, "start_guardian", host.guardian)
    assert host.start(1) == STARTED
    (host.node(1) / "work" / "outputs" / "model.pt").write_text("weights")
    return host


def test_what_ranks_left_outlives_launches_that_die_or_are_given_up(host: Host) -> None:
    taken = ["g1-a2/node-0/work/outputs/model.pt"]
    assert host.start(2, before=(1,)) == STARTED
    assert host.outputs() == taken
    assert host.start(2, launch=2, before=(1,)) == STARTED, "the launcher of the first has died"
    assert host.outputs() == taken
    assert launch_of(host.node(2)) == 2
    assert host.abandon(2, launch=2) == ()
    assert host.outputs() == taken
    assert not (host.node(2) / "assignment.json").exists()
    assert host.start(3, before=(2, 1)) == STARTED
    assert host.outputs() == ["g1-a3/node-0/work/outputs/model.pt"]
    assert (host.node(3) / "ranks").is_dir()


def test_what_ranks_left_outlives_a_failure_between_its_two_moves(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("os.rename", no_space_after(2))  # the folder's own and the work's
        with pytest.raises(OSError, match="No space"):
            host.start(2, before=(1,))
    assert host.outputs() == ["g1-a2/node-0/work/outputs/model.pt"]
    assert host.start(2, before=(1,)) == STARTED
    assert host.started[-1] == host.node(2)
    assert (host.node(2) / "ranks").is_dir()


def no_space_after(count: int) -> Callable[..., None]:
    """Return a rename that works so many times."""
    left, rename = iter(range(count)), os.rename

    def renamed(source: Path, target: Path) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    return renamed


def test_what_is_nowhere_is_told(host: Host) -> None:
    shutil.rmtree(host.node(1))
    refused = host.start(2, before=(1,))
    assert "clear the task to train anew" in refused.refused


def test_a_launch_that_was_given_up_starts_nothing_however_late_it_comes(host: Host) -> None:
    assert host.abandon(2, launch=1, keep=False) == ()
    assert host.start(2, launch=1).stale
    assert not host.node(2).exists()
    assert host.start(2, launch=2) == STARTED
    assert host.abandon(3, launch=2, keep=False) == host.abandon(3, launch=1, keep=False) == ()
    assert host.start(3, launch=2).stale, "what was given up later counts"
    assert host.abandon(2, launch=1, keep=False) == ()
    assert host.node(2).exists(), "a later launch is somebody else's"


def test_a_launch_that_is_given_up_while_it_unpacks_starts_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    create = node_control.node_folder.create_node

    def slowly(node: Path, *given: Any, **more: Any) -> None:
        assert host.abandon(2, keep=False) == ()
        create(node, *given, **more)

    monkeypatch.setattr(node_control.node_folder, "create_node", slowly)
    assert host.start(2).stale
    assert not host.node(2).exists()
    assert host.started == [host.node(1)]


def test_a_host_with_a_full_disk_gives_a_launch_up_all_the_same(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(cancel_request, "replace_file", full)
    assert host.abandon(1, keep=False) == ()
    assert not host.node(1).exists()


def test_what_is_asked_twice_is_started_once_and_goes_on_where_the_first_died(host: Host) -> None:
    assert host.start(1) == STARTED
    assert host.started == [host.node(1)]
    (host.node(1) / "guardian.json").unlink()
    assert host.start(1) == STARTED
    assert host.started == [host.node(1)] * 2


def test_a_guardian_may_be_about_to_be_born_as_soon_as_there_is_an_assignment(host: Host) -> None:
    (host.node(1) / "guardian.json").unlink()
    assert liveness.is_alive(str(host.node(1)))


def test_a_node_that_is_removed_leaves_nothing(host: Host) -> None:
    host.abandon(2, keep=False)
    control(host.root).remove_nodes(RemoveNodes(folders=(str(host.node(1)), str(host.node(2)))))
    assert not host.jobs.exists()


@pytest.mark.parametrize("command", ["remove_nodes", "end_nodes", "inspect_nodes", "read_assignment", "abandon_launch"])
@pytest.mark.parametrize("folder", ["{root}/jobs/../victim", "{root}/victim", "{root}/jobs"])
def test_a_folder_that_is_no_node_s_is_refused(tmp_path: Path, command: str, folder: str) -> None:
    # all of them below tmp_path: a rule that is broken must not cost this machine anything
    (tmp_path / "victim").mkdir()
    where = folder.format(root=tmp_path)
    cancel = {"cause": "cancel", "reason": "none"}
    fields = {"folder": where, "folders": [where], "cancel": cancel, "timeout": 0.0, "launch": 1, "keep_outputs": False}
    assert "is not below" in control(tmp_path).commands.answer({"do": command, **fields})["error"]
    assert list((tmp_path / "victim").iterdir()) == []
