"""A launch that comes to nothing gives its hosts back once each of them has said that nothing of it lives there."""

from __future__ import annotations

from typing import Any, cast

import pytest

from muster.core.attempt import AttemptId
from muster.core.codec import to_data
from muster.core.errors import RequestError, TargetError
from muster.node.host.gang_scheduler import Allocation, QueueEntry
from muster.node.host.node_control import AbandonLaunch
from muster.node.host.queue_control import AcquireLease, LaunchLease, ReturnAllocations, ReturnReply
from muster.node.rpc import Request
from muster.targets.claim import Claim
from muster.targets.hosts.connection import HostConnection
from muster.targets.hosts.shell import CommandResult
from muster.targets.hosts.ssh_errors import BadHosts, HostUnreachable
from muster.targets.ssh.end_events import cancelled
from muster.targets.ssh.inventory import Inventory
from muster.targets.ssh.launch import Launch, LaunchUncertain, LeaseLost
from muster.targets.ssh.queue_client import QueueClient, QueuedJob

CLAIM = Claim(
    job_id="job", generation=1, attempt=1, plan_digest="", store="s3://none", nodes=2, submitted=1.0, first_started=1.0
)


def entry_of(state: str, folder: str = "", slots: int = 1) -> QueueEntry:
    allocations = tuple(Allocation(host=host, folder=folder) for host in ("a", "b"))
    fields: dict[str, Any] = {"number": 1, "job": "job", "generation": 1, "attempt": 1, "nodes": 2, "slots": slots, "gpus": 0}
    return QueueEntry(**fields, state=state, allocations=allocations, excluded={}, launch=3, bundle="/launch-bundle")


class Hosts:
    """A queue server and two hosts that note what they are asked; those that are ``away`` don't answer."""

    def __init__(self, entry: QueueEntry, able: tuple[str, ...] = ("a", "b"), away: tuple[str, ...] = ()) -> None:
        self.inventory = Inventory.from_fields({"hosts": "a\nb"})
        self.connection = self
        self.live = True
        self.asked: list[tuple[str, str]] = []
        self._entry, self._able, self._away = entry, able, away

    async def ask(self, request: Request[Any]) -> Any:
        self.asked.append(("queue", request.command))
        return {
            AcquireLease: LaunchLease(entry=self._entry, claim=to_data(CLAIM), waited=0.0),
            ReturnAllocations: ReturnReply(entry=entry_of("waiting"), able=self._able),
        }[type(request)]

    async def withdraw(self, entry: QueueEntry, end: Any, launcher: str = "") -> tuple[bool, bool]:
        self.asked.append(("queue", "withdraw as launcher" if launcher else "withdraw"))
        return True, False

    async def inspect(self, wanted: AttemptId) -> QueuedJob:
        return QueuedJob(entry=self._entry, live=self.live)

    async def use(self, work: Any) -> CommandResult:
        return CommandResult(code=2, out=b"", err=b"tar: no such folder")

    def connections(self, name: str) -> HostConnection:
        return cast(HostConnection, Host(self, name, away=name in self._away))

    def launch(self) -> Launch:
        return Launch(cast(QueueClient, self), self.connections, lambda line: None)


class Host:
    """The connection to one host."""

    def __init__(self, hosts: Hosts, name: str, *, away: bool) -> None:
        self._hosts, self._name, self._away = hosts, name, away

    async def ask(self, part: str, request: AbandonLaunch, **how: Any) -> tuple[str, ...]:
        self._hosts.asked.append((self._name, f"{request.command} {request.launch}"))
        if self._away:
            raise HostUnreachable(f"host {self._name} is unreachable")
        return ()


def breaks(monkeypatch: pytest.MonkeyPatch, error: Exception, begun: bool = True) -> None:
    """Have launches fail, with agents started or without."""

    async def failing(self: Launch, entry: QueueEntry, claim: Claim, waited: float) -> QueueEntry:
        if begun:
            self._begun = entry.allocations
        raise error

    monkeypatch.setattr(Launch, "_launch", failing)


@pytest.mark.parametrize("error", [BadHosts({"b": RequestError("b: no such mount")}), ValueError("a bug")])
async def test_what_was_started_is_ended_before_hosts_are_given_back(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    breaks(monkeypatch, error)
    hosts = Hosts(entry_of("granted"))
    given = await hosts.launch().run(entry_of("granted"))
    assert given is not None
    assert hosts.asked == [
        ("queue", "acquire_lease"),
        ("a", "abandon_launch 3"),
        ("b", "abandon_launch 3"),
        ("queue", "return_allocations"),
    ]


async def test_nothing_is_given_back_while_a_host_can_not_say_what_lives_there(monkeypatch: pytest.MonkeyPatch) -> None:
    breaks(monkeypatch, BadHosts({"b": HostUnreachable("host b was lost")}))
    hosts = Hosts(entry_of("granted"), away=("b",))
    with pytest.raises(
        LaunchUncertain, match=r"broken off \(host b was lost\); it is tried again once b can say what lives there"
    ):
        await hosts.launch().run(entry_of("granted"))
    assert ("queue", "return_allocations") not in hosts.asked


async def test_what_an_earlier_launch_may_have_started_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    breaks(monkeypatch, BadHosts({"b": HostUnreachable("host b does not answer")}), begun=False)
    hosts = Hosts(entry_of("starting", folder="/f"))
    await hosts.launch().run(entry_of("starting"))
    assert hosts.asked[1:3] == [("a", "abandon_launch 3"), ("b", "abandon_launch 3")]
    unbegun = Hosts(entry_of("granted"))
    await unbegun.launch().run(entry_of("granted"))
    assert unbegun.asked == [("queue", "acquire_lease"), ("queue", "return_allocations")]


async def test_what_can_not_be_read_any_more_ends_the_run_and_is_not_launched_for_ever() -> None:
    hosts = Hosts(entry_of("granted"), able=())
    with pytest.raises(TargetError, match=r"what run job is launched with can't be read: tar: no such folder; submit it again"):
        await hosts.launch().run(entry_of("granted"))
    assert hosts.asked[-1] == ("queue", "withdraw")
    hosts.live = False
    assert await hosts.launch().run(entry_of("granted")) is None, "it has left the queue"


async def test_somebody_else_s_launch_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    breaks(monkeypatch, LeaseLost())
    hosts = Hosts(entry_of("granted"))
    assert await hosts.launch().run(entry_of("granted")) is None
    assert hosts.asked == [("queue", "acquire_lease")]


async def test_who_ends_a_launch_that_died_has_its_place_until_it_has_left_the_queue() -> None:
    hosts = Hosts(entry_of("starting", folder="/f"))

    async def end_nodes(taken: QueueEntry) -> None:
        hosts.asked.append(("nodes", f"end {taken.launch}"))

    assert await hosts.launch().end(entry_of("starting"), cancelled("enough"), end_nodes)
    assert hosts.asked == [("queue", "acquire_lease"), ("nodes", "end 3"), ("queue", "withdraw as launcher")]
