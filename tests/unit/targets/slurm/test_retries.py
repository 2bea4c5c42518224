"""What a watch does while the cluster's login node does not answer: it waits, and asks nothing that it need not know."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab import plan_of
from muster.core.errors import RequestError
from muster.core.event import END, NODE_END, Cursor, Event
from muster.core.handle import JobHandle
from muster.core.paths import JobPaths
from muster.core.store_access import StoreAccess
from muster.node.slurm.job_control import PART
from muster.targets.contract import Submission
from muster.targets.hosts.shell import CommandResult, ConnectionLost
from muster.targets.hosts.ssh_errors import HostUnreachable
from muster.targets.slurm.cluster import Cluster, SlurmOutage
from muster.targets.slurm.login_node import LoginNode, OwnShell
from muster.targets.slurm.options import Options
from muster.targets.slurm.query import SlurmJobStatus
from muster.targets.slurm.target import SlurmTarget
from muster.targets.watch.news import News
from slurm_fake import FakeSlurm


@dataclass(eq=False)
class Away:
    """A login that fails with each of ``errors`` before it is this machine; ``looks``: the fate of requests to job control."""

    errors: list[Exception] = field(default_factory=list)
    looks: list[Exception | None] = field(default_factory=list)

    async def open(self) -> OwnShell:
        if self.errors:
            raise self.errors.pop(0)
        return Cut(looks=self.looks)


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut(OwnShell):
    """This machine's shell, cut off by each error of ``looks`` when job control is asked."""

    looks: list[Exception | None]

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", limit: float = 60.0) -> CommandResult:
        error = self.looks.pop(0) if PART in argv and self.looks else None
        if error is not None:
            raise error
        return await super().run(argv, stdin=stdin, limit=limit)


def target(folder: Path, slurm: FakeSlurm, login: Away) -> SlurmTarget:
    node = LoginNode(login=login, root=str(folder / "shared"), python=sys.executable)
    return SlurmTarget(login=node, options=Options(bin=str(slurm.folder), poll_interval=1.0))


def submitted(folder: Path, slurm: FakeSlurm) -> JobHandle:
    plan = plan_of("x", "s3://bucket/prefix", nodes=1)
    submission = Submission(job_id="job", generation=1, plan=plan, archive=None, access=StoreAccess(), requested=0.0)
    return target(folder, slurm, Away()).submit(submission)


def watched(cluster: SlurmTarget, handle: JobHandle) -> list[Event]:
    async def watch() -> list[Event]:
        return [event async for _, _, event in cluster.session().watch({handle: Cursor()})]

    return asyncio.run(asyncio.wait_for(watch(), 120))


def test_a_watch_that_begins_while_the_login_node_is_away_waits_for_it(tmp_path: Path) -> None:
    slurm = FakeSlurm.of(tmp_path / "bin")
    handle = submitted(tmp_path, slurm)
    slurm.change(State="CANCELLED")
    away = Away([HostUnreachable("host login did not answer in time") for _ in range(3)])
    events = watched(target(tmp_path, slurm, away), handle)
    assert away.errors == []
    assert (events[-1].kind, events[-1].data["state"]) == (END, "Canceled")


def test_a_login_that_is_refused_is_not_tried_for_ever(tmp_path: Path) -> None:
    slurm = FakeSlurm.of(tmp_path / "bin")
    handle = submitted(tmp_path, slurm)
    with pytest.raises(RequestError, match="its key"):
        watched(target(tmp_path, slurm, Away([RequestError("correct its key")])), handle)


def ended(folder: Path, slurm: FakeSlurm, handle: JobHandle, end: dict[str, object]) -> None:
    """Have the job end with an END of its own."""
    node = JobPaths(root=folder / "shared", job_id=handle.job_id).node(handle.generation, handle.attempt, 0)
    node.root.mkdir()
    data = {"manifest": None, "digest": None, "uri": "", "metrics": {}, "files": 0, **end}
    events = [Event(time=1.0, kind=END, node=0, data=data), Event(time=1.0, kind=NODE_END, node=0)]
    node.events.write_text("".join(event.to_line() for event in events))
    slurm.change(State="COMPLETED")


def test_a_connection_that_is_lost_after_the_end_of_a_completed_run_does_not_matter(tmp_path: Path) -> None:
    slurm = FakeSlurm.of(tmp_path / "bin")
    handle = submitted(tmp_path, slurm)
    ended(tmp_path, slurm, handle, {"state": "Completed", "verdict": None})
    away = Away(looks=[None, ConnectionLost("cut"), ConnectionLost("cut")])
    events = watched(target(tmp_path, slurm, away), handle)
    assert events[-1].data["state"] == "Completed"
    assert len(away.looks) == 2, "nothing was asked that need not be known"


def test_what_is_to_be_known_of_an_end_is_waited_for(tmp_path: Path) -> None:
    slurm = FakeSlurm.of(tmp_path / "bin")
    handle = submitted(tmp_path, slurm)
    ended(tmp_path, slurm, handle, {"state": "Failed", "verdict": {"cause": "node", "detail": "node 0 was lost"}})
    away = Away(looks=[None, ConnectionLost("cut"), ConnectionLost("cut")])
    events = watched(target(tmp_path, slurm, away), handle)
    assert events[-1].data["verdict"]["detail"] == "node 0 was lost"
    assert away.looks == []


async def test_an_answer_of_slurm_that_nobody_understands_is_an_outage_and_ends_no_watch(tmp_path: Path) -> None:
    slurm, told = FakeSlurm.of(tmp_path / "bin"), list[News]()
    submitted(tmp_path, slurm)
    slurm.change(RestartCnt="many")
    node = LoginNode(login=Away(), root=str(tmp_path / "shared"), python=sys.executable)
    ticket = (cluster := Cluster(node, Options(bin=str(slurm.folder), poll_interval=1.0))).listen("1", told.append)

    async def received(kind: type[News]) -> News:
        async with asyncio.timeout(60):
            while not any(isinstance(news, kind) for news in told):
                await asyncio.sleep(0.05)
        return told[-1]

    outage = await received(SlurmOutage)
    assert isinstance(outage, SlurmOutage)
    assert "many" in outage.reason
    slurm.change(RestartCnt="0")
    assert isinstance(await received(SlurmJobStatus), SlurmJobStatus)
    cluster.unsubscribe(ticket)
