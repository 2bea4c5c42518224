"""A job whose hosts are all away is waited for as long as its agents may live, and no longer."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, cast

import pytest

from muster.core.event import Cursor
from muster.core.handle import JobHandle
from muster.node.host.gang_scheduler import Allocation, QueueEntry
from muster.targets.hosts.node_feed import NodeFeed
from muster.targets.hosts.ssh_errors import HostUnreachable
from muster.targets.ssh.feed import SshJobFeed
from muster.targets.ssh.jobs import SshJobs
from muster.targets.ssh.ledger import SshLedger, SshTiming
from muster.targets.ssh.queue_client import QueuedJob
from muster.targets.watch.news import News, NodeEnded

HANDLE = JobHandle(target="ssh", job_id="job", generation=1, attempt=1, plan_digest="", store="s3://none")
ENTRY = QueueEntry(
    **{"number": 1, "job": "job", "generation": 1, "attempt": 1, "nodes": 2, "slots": 1, "gpus": 0, "excluded": {}},
    state="launched",
    allocations=(Allocation(host="a", folder="/f0"), Allocation(host="b", folder="/f1")),
)


class Away:
    """A watch, its link, and the settling room: hosts that have not been heard for an hour."""

    def __init__(self) -> None:
        self.client = self.waiting = self
        self.lost_since = time.monotonic() - 3600.0

    def stop(self) -> None:
        """There is nothing to stop."""

    def release(self, key: object) -> None:
        raise AssertionError("a host that has not answered keeps what is held on it")


class Inbox:
    def __init__(self) -> None:
        self.news: list[News] = []

    def put(self, job: JobHandle, news: News) -> bool:
        self.news.append(news)
        return True

    def when_room(self, resume: object) -> None:
        """There is always room."""


def endings(over: float) -> list[str]:
    """Return how the nodes of a job were lost, whose hosts are all away."""
    inbox, away = Inbox(), cast(Any, Away())
    feed = SshJobFeed(away, HANDLE, Cursor(), cast(Any, inbox), SshTiming())
    feed._entry = replace(ENTRY, over=over)
    feed._nodes = [
        NodeFeed(inbox=cast(Any, inbox), job=HANDLE, node=n, host=a.host, on_end=feed._release_hosts, watch=away)
        for n, a in enumerate(ENTRY.allocations)
    ]
    feed._check_hosts()
    return [news.how for news in inbox.news if isinstance(news, NodeEnded)]


def test_agents_that_may_live_are_waited_for() -> None:
    assert endings(over=time.time() + 3600.0) == []
    assert endings(over=0.0) == [], "an entry of an older release doesn't say"


def test_agents_that_can_not_live_any_more_are_not_waited_for() -> None:
    assert endings(over=1.0) == [
        "host a does not answer since 3600 s; the run's deadline has passed",
        "host b does not answer since 3600 s; the run's deadline has passed",
    ]


class NobodyAnswers(SshLedger):
    async def _inspect_nodes(self, allocations: object) -> dict[int, dict[str, Any] | None]:
        return {0: None, 1: None}


async def test_its_id_can_be_used_again_then_and_not_before() -> None:
    ledger = NobodyAnswers(jobs=cast(SshJobs, None), target="ssh")
    with pytest.raises(HostUnreachable, match="host a, which led run job, can't be asked how it stands"):
        await ledger._liveness(QueuedJob(live=True), ENTRY)
    assert await ledger._liveness(QueuedJob(live=True), replace(ENTRY, over=1.0)) == (False, None)
