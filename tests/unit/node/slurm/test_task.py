"""How a node of a Slurm job is laid out: for ranks, and for an attempt that only stores what they left."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab import assignment_of, plan_of
from muster.core.codec import canonical
from muster.core.paths import JobPaths, NodePaths
from muster.node import processes
from muster.node.assignment import AttemptRecord
from muster.node.slurm import claim_chain, replies
from muster.node.slurm import task as slurm_task
from muster.node.slurm.claim_chain import ChainEntry
from muster.node.slurm.rendezvous import StartRefused, first_start
from muster.node.slurm.task import Task


@pytest.fixture
def paths(tmp_path: Path) -> JobPaths:
    return JobPaths(root=tmp_path, job_id="job")


def submitted(paths: JobPaths, attempt: int, **others: Any) -> None:
    """Have an attempt's batch job be submitted."""
    template = assignment_of(plan_of("x", "s3://b/p", max_run_duration=3600.0), attempt=attempt)
    history = tuple(AttemptRecord(attempt=past, started=1.0, state="Failed") for past in range(1, attempt))
    batch = paths.batch(1, attempt)
    batch.root.mkdir(parents=True)
    batch.template.write_bytes(canonical(replace(template, history=history, **others)))
    claim = {"job_id": "job", "generation": 1, "attempt": attempt, "history": [], "submitted": 1.0}
    claim_chain.append(paths, claim_chain.next_number(paths), ChainEntry(claim=claim, base=attempt))


def task(paths: JobPaths, base: int, restarts: int = 0, node: int = 0) -> Task:
    """Return a node of a start of the batch job that was submitted for an attempt."""
    environ = {"SLURM_JOB_ID": "12", "SLURM_NODEID": str(node), "SLURM_RESTART_COUNT": str(restarts)}
    return Task(paths.batch(1, base), environ)


def trained(paths: JobPaths, attempt: int, node: int = 0) -> NodePaths:
    """Return a node on which ranks have left their outputs."""
    found = paths.node(1, attempt, node)
    found.outputs.mkdir(parents=True)
    found.ranks.mkdir()
    (found.outputs / "model.txt").write_text(f"weights of {attempt}")
    found.rank_log(0).write_text("said")
    return found


def test_a_commit_that_slurm_starts_again_stores_what_its_first_start_had_taken_over(paths: JobPaths) -> None:
    trained(paths, 1)
    submitted(paths, 2, commit_only=True)
    task(paths, 2)._create_folder()
    task(paths, 2, restarts=1)._create_folder()
    third = paths.node(1, 3, 0)
    assert (third.outputs / "model.txt").read_text() == "weights of 1"
    assert third.rank_log(0).read_text() == "said"
    assert not paths.node(1, 2, 0).work.exists()


def test_a_start_that_is_lost_while_it_takes_over_loses_nothing(paths: JobPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(paths, 1)
    submitted(paths, 2, commit_only=True)
    first = task(paths, 2)
    with monkeypatch.context() as lost:
        lost.delattr("os.rename")
        with pytest.raises(AttributeError, match="rename"):
            first._create_folder()
    task(paths, 2, restarts=1)._create_folder()
    assert (paths.node(1, 3, 0).outputs / "model.txt").read_text() == "weights of 1"


def test_a_commit_of_what_is_gone_is_refused(paths: JobPaths) -> None:
    trained(paths, 1, node=0)
    submitted(paths, 2, commit_only=True)
    with pytest.raises(StartRefused, match=r"what node 1 of run job left is gone: .*g1-a1"):
        task(paths, 2, node=1)._create_folder()


def test_ranks_begin_in_an_empty_folder(paths: JobPaths) -> None:
    trained(paths, 1)
    submitted(paths, 2)
    (paths.node(1, 2, 0).outputs / "stale").mkdir(parents=True)
    task(paths, 2)._create_folder()
    assert list(paths.node(1, 2, 0).outputs.iterdir()) == []
    assert (paths.node(1, 1, 0).outputs / "model.txt").exists()


def test_a_commit_is_not_part_of_the_runs_duration(paths: JobPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "ask", lambda job: None)
    submitted(paths, 1)
    submitted(paths, 2, commit_only=True)
    now = time.time()
    first_start(paths.started(1), now - 7200)
    assert task(paths, 1)._deadline(now)[0] < now
    assert task(paths, 2)._deadline(now)[0] > now


def test_a_node_with_a_full_disk_is_ended_all_the_same(paths: JobPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    signalled: list[int] = []
    monkeypatch.setattr(replies, "ask", lambda job: None)
    monkeypatch.setattr(slurm_task, "replace_file", full)
    monkeypatch.setattr(processes, "send_signal", lambda pids, number: signalled.extend(pids))
    submitted(paths, 1)
    task(paths, 1)._terminate(4711)
    assert signalled == [4711]
