"""What fails between us and an engine: whose failure it is, and how long it is borne."""

from __future__ import annotations

import errno
from typing import Any

import docker.errors
import paramiko
import pytest
import requests.exceptions
import urllib3.exceptions

from muster.core.errors import TargetError, UnknownRun
from muster.core.event import Cursor, Event
from muster.core.handle import JobHandle
from muster.targets.docker.engine import Engine
from muster.targets.docker.errors import EngineUnreachable, explained, unreachable
from muster.targets.docker.feed import DockerFeed
from muster.targets.docker.ledger import DockerTiming
from muster.targets.watch.session import WatchSession

WHERE = "tcp://engine:2376"


@pytest.mark.parametrize(
    "error",
    [
        docker.errors.DockerException(
            "Error while fetching server API version: FileNotFoundError(2, 'No such file or directory')"
        ),
        requests.exceptions.ReadTimeout("timed out"),
        urllib3.exceptions.ProtocolError("Connection broken: IncompleteRead(0 bytes read)"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        TimeoutError("timed out"),
        paramiko.SSHException("SSH session not active"),
        EOFError(),
    ],
)
def test_an_engine_that_is_away_is_named(error: Exception) -> None:
    with pytest.raises(EngineUnreachable, match=f"the docker engine at {WHERE} can't be reached"), explained("building", WHERE):
        raise error


def test_a_full_disk_of_ours_is_not_the_engines() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/tmp/context")
    with pytest.raises(TargetError) as caught, explained("preparing the image", WHERE):
        raise full
    assert "preparing the image failed on the machine that asks the engine" in str(caught.value)
    assert "No space left on device: /tmp/context; make room there" in str(caught.value)
    assert not isinstance(caught.value, EngineUnreachable)


def test_a_file_of_ours_that_is_missing_is_named() -> None:
    with pytest.raises(TargetError, match="No such file or directory: /no/where; correct"), explained("reading", WHERE):
        open("/no/where")  # noqa: SIM115


class Moody:
    """An engine that does not answer for a number of tries, and then has no job at all."""

    url = WHERE

    def __init__(self, away: int) -> None:
        self.away = away

    @property
    def client(self) -> Any:
        self.away -= 1
        if self.away >= 0:
            raise unreachable("Connection refused", self.url)
        return self

    def containers(self, **_: Any) -> list[Any]:
        return []

    def discard(self, client: Any) -> None:
        raise AssertionError(client)


HANDLE = JobHandle(job_id="job", generation=1, attempt=1, target="docker", plan_digest="", store="")


async def watched(engine: Any, told: list[Event], timeout: float = 600.0) -> None:
    timing = DockerTiming(engine=timeout)
    async for _, _, event in WatchSession(lambda: DockerFeed(engine, timing), timing).watch({HANDLE: Cursor()}):
        told.append(event)


async def test_the_first_look_waits_for_an_engine_that_is_away() -> None:
    told: list[Event] = []
    with pytest.raises(UnknownRun, match="no attempt 1 of run 'job'"):
        await watched(Moody(away=3), told)
    assert [event.data["text"] for event in told] == [f"the docker engine at {WHERE} does not answer; waiting for it"]


async def test_the_first_look_gives_an_engine_up_in_the_end() -> None:
    with pytest.raises(EngineUnreachable, match=r"no answer for 0\.2 s, the last try: .*Connection refused"):
        await watched(Moody(away=10**6), [], timeout=0.2)


def test_a_client_over_ssh_that_failed_is_made_anew_and_no_other() -> None:
    first, second = object(), object()
    for url, kept in (("ssh://engine", False), (WHERE, True)):
        engine = Engine(url=url)
        engine.__dict__["client"] = first
        engine.discard(second)  # type: ignore[arg-type]
        assert engine.__dict__["client"] is first
        engine.discard(first)  # type: ignore[arg-type]
        assert ("client" in engine.__dict__) is kept
