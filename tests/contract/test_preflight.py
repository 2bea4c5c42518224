"""Preflight on real nodes: who does not fit is named with host and reason, in seconds, and no rank is started."""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lab import Lab, lines, notes, plan_of
from muster.core.event import Event
from muster.core.plan import EnvironmentRef, JobPlan, Needs
from muster.core.state import RunState
from muster.core.verdict import Cause, Verdict
from muster.node.host import node_folder
from muster.packaging.code import snapshot
from muster.targets.contract import Submission
from muster.targets.local import ledger as local_ledger

# the driver of every second node is another one; agents run in their node's folder
SMI = """#!/bin/sh
case "$PWD" in */node-1) driver=550.90;; *) driver=570.12;; esac
i=0
while [ $i -lt 8 ]; do echo "$i, NVIDIA H200, 143771 MiB, $driver, GPU-$i"; i=$((i + 1)); done
"""


def refused(lab: Lab, plan: JobPlan, archive: Path | None = None) -> tuple[Verdict, list[Event]]:
    """Run a job that does not come to its ranks; gives why."""
    submission = Submission(
        job_id=f"preflight-{os.getpid()}-{time.monotonic_ns()}",
        generation=1,
        plan=plan,
        archive=archive,
        access=lab.store.access,
        requested=time.time(),
    )
    handle = lab.target.submit(submission)
    lab.handles.append(handle)
    outcome, events = lab.wait(handle)
    assert outcome.state is RunState.FAILED
    assert outcome.verdict is not None
    assert outcome.verdict.cause is Cause.PREFLIGHT, outcome.verdict
    assert not [e for e in events if e.kind == "rank_start"]
    assert seconds(events) < 100, "sooner than nodes are waited for"
    record = lab.record(handle)
    assert record["verdict"]["violations"] == [dataclasses.asdict(violation) for violation in outcome.verdict.violations]  # type: ignore[index]
    return outcome.verdict, events


def seconds(events: list[Event]) -> float:
    """Return how long the leader took to see it, from its first word to the end."""
    return events[-1].time - min(event.time for event in events)


def named(verdict: Verdict) -> list[tuple[int, str]]:
    return [(violation.node, violation.host) for violation in verdict.violations]


def with_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_a_driver_that_is_not_the_others(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_smi(tmp_path, monkeypatch)
    verdict, _ = refused(lab, plan_of("print('started')", lab.store.uri, nodes=3, needs=Needs(gpus=1)))
    assert named(verdict) == [(1, socket.gethostname())]
    assert "its GPU driver is 550.90, that of the others 570.12; " in verdict.summary()


def test_too_few_gpus(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_smi(tmp_path, monkeypatch)
    verdict, _ = refused(lab, plan_of("print('started')", lab.store.uri, nodes=3, needs=Needs(gpus=4)))
    assert [node for node, _ in named(verdict)] == [1, 2]  # node 1 for its driver
    assert "node 2 (" in verdict.summary()
    assert "4 GPUs were asked for, it has 0 for this job; " in verdict.summary()


def test_no_python(lab: Lab) -> None:
    plan = plan_of("print('started')", lab.store.uri, nodes=2)
    plan = dataclasses.replace(plan, environment=EnvironmentRef(interpreter="/no/such/python"))
    verdict, _ = refused(lab, plan)
    assert [node for node, _ in named(verdict)] == [0, 1]
    assert "its Python interpreter '/no/such/python' is missing" in verdict.summary()


def test_other_code(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("print('started')")
    taken = snapshot.pack(tmp_path / "code", tmp_path / "cache")
    plan = dataclasses.replace(plan_of("print('started')", lab.store.uri, nodes=2), snapshot=taken.digest)

    unpack = node_folder.unpack_code

    def unpack_otherwise(archive: str, work: Path) -> None:
        unpack(archive, work)
        if work.parent.name == "node-1":
            (work / "train.py").write_text("print('changed')")

    monkeypatch.setattr(node_folder, "unpack_code", unpack_otherwise)
    verdict, _ = refused(lab, plan, taken.archive)
    assert [node for node, _ in named(verdict)] == [1]
    assert "its code is not what was submitted: sha256:" in verdict.summary()
    assert f" instead of {taken.digest[:19]}; " in verdict.summary()


def test_another_environment(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pythons = []
    for node, torch in enumerate(("2.4.1", "2.3.0", "2.4.1")):
        packages = tmp_path / f"env-{node}" / "lib" / "python3.11" / "site-packages"
        (packages / f"torch-{torch}.dist-info").mkdir(parents=True)
        (tmp_path / f"env-{node}" / "bin").mkdir()
        pythons.append(tmp_path / f"env-{node}" / "bin" / "python")
        pythons[-1].symlink_to(sys.executable)
    plan = plan_of("print('started')", lab.store.uri, nodes=3)
    plan = dataclasses.replace(plan, environment=EnvironmentRef(interpreter=str(pythons[0])))
    changed(monkeypatch, lambda assignment: {"interpreter": str(pythons[assignment.node])})
    verdict, _ = refused(lab, plan)
    assert [node for node, _ in named(verdict)] == [1]
    assert "its environment is not that of the others: torch-2.3.0 instead of torch-2.4.1; " in verdict.summary()


def test_a_node_whose_agent_never_comes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    start = local_ledger.start_agent
    monkeypatch.setattr(local_ledger, "start_agent", lambda *given: None if given[1].node == 1 else start(*given))
    verdict, _ = refused(lab, plan_of("print('started')", lab.store.uri, nodes=2, mesh=6.0))
    assert named(verdict) == [(1, "")]
    assert "node 1 does not fit: it did not report within 6 s; look whether it is up at 127." in verdict.summary()


def test_what_the_target_has_to_say_is_told_at_the_start(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    told = "node 1 is on gpu-d instead of gpu-c: it burns"
    changed(monkeypatch, lambda assignment: {"notes": (told,)})
    outcome, events = lab.run("print('started')")
    assert outcome.state is RunState.COMPLETED
    assert notes(events).count(told) == 1
    assert lines(events) == ["started"] * 2


def changed(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Have every agent be told something else."""
    start = local_ledger.start_agent

    def start_otherwise(paths: Any, assignment: Any, entry: Path) -> None:
        start(paths, dataclasses.replace(assignment, **change(assignment)), entry)

    monkeypatch.setattr(local_ledger, "start_agent", start_otherwise)
