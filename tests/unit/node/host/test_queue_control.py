"""The queue server: claims are compared and swapped, one launcher at a time, what has ended leaves the queue."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

import pytest

from muster.core.attempt import AttemptId
from muster.core.event import Event
from muster.core.paths import HostPaths
from muster.node.host.gang_scheduler import Allocation, HostCapacity, QueueEntry, ResourceRequest
from muster.node.host.queue_control import (
    LEASE,
    PART,
    AcquireLease,
    AdvanceQueue,
    ClaimAttempt,
    DeleteJob,
    FinishStart,
    QueuedAttempt,
    QueueServer,
    ReadQueued,
    RecordStart,
    RenewLease,
    ReturnAllocations,
    ReturnReply,
    Withdraw,
    WithdrawReply,
)
from muster.node.rpc import Request

HOSTS = tuple(HostCapacity(name=name, slots=0, gpus=("0", "1")) for name in ("a", "b"))
START = Path(__file__).parents[4] / "provider" / "muster" / "node" / "start.py"
ONE, TWO = AttemptId("one", 1, 1), AttemptId("two", 1, 1)
A = TypeVar("A")


def claim_of(attempt: AttemptId) -> dict[str, Any]:
    return {"job_id": attempt.job_id, "generation": attempt.generation, "attempt": attempt.attempt}


class QueueHost:
    """A queue server's folder, and the time there."""

    def __init__(self, root: Path) -> None:
        self.paths = HostPaths(root=root)
        self.now = 1000.0

    def ask(self, request: Request[A]) -> A:
        server = QueueServer(self.paths, clock=lambda: self.now)
        with server.locked():
            return request.decode_reply(json.loads(json.dumps(server.answer(request.encode()))))

    def claim(
        self, job: str, attempt: int = 1, nodes: int = 2, expected: AttemptId | None = None, **more: Any
    ) -> QueueEntry | None:
        bundle = self.paths.job(job).job / f"bundle-{attempt}"
        bundle.mkdir(parents=True)
        resources = ResourceRequest(**{"nodes": nodes, "slots": 1, "gpus": 2, "bundle": str(bundle), **more})
        attempt_id = AttemptId(job, 1, attempt)
        return self.ask(
            ClaimAttempt(id=attempt_id, expected=expected, claim=claim_of(attempt_id), resources=resources, hosts=HOSTS)
        )

    def claim_again(self, bundle: str) -> QueueEntry | None:
        resources = ResourceRequest(nodes=2, slots=1, gpus=2, bundle=bundle)
        return self.ask(ClaimAttempt(id=ONE, expected=None, claim=claim_of(ONE), resources=resources, hosts=HOSTS))

    def turn(self, wanted: tuple[str, ...] = (), ended: tuple[str, ...] = ()) -> dict[str, str]:
        request = AdvanceQueue(
            hosts=HOSTS,
            wanted=tuple(AttemptId(job, 1, 1) for job in wanted),
            ended=tuple(AttemptId(job, 1, 1) for job in ended),
        )
        return {entry.job: entry.state for entry in self.ask(request).entries}

    def queued(self, job: str, generation: int = 1, attempt: int = 1) -> QueuedAttempt:
        return self.ask(ReadQueued(attempts=(AttemptId(job, generation, attempt),)))[0]

    def take(self, attempt: AttemptId = ONE, launcher: str = "l") -> QueueEntry | None:
        lease = self.ask(AcquireLease(id=attempt, launcher=launcher))
        return lease.entry if lease else None

    def starting(self, attempt: AttemptId = ONE, launcher: str = "l", nodes: int = 2) -> bool:
        return self.ask(RecordStart(id=attempt, launcher=launcher, folders=tuple(f"/f{n}" for n in range(nodes))))

    def launch(self, job: str, launcher: str = "l") -> None:
        attempt = AttemptId(job, 1, 1)
        taken = self.take(attempt, launcher)
        assert taken is not None
        assert self.starting(attempt, launcher, len(taken.allocations))
        assert self.ask(FinishStart(id=attempt, launcher=launcher))

    def refuse(self, bad: str, launcher: str = "l") -> ReturnReply | None:
        return self.ask(ReturnAllocations(id=ONE, launcher=launcher, bad={bad: "it is down"}, hosts=HOSTS))

    def withdraw(self, attempt: AttemptId, end: Event, launcher: str = "") -> WithdrawReply:
        return self.ask(Withdraw(id=attempt, end=end, launcher=launcher))


def end_of(state: str, time: float = 1.0) -> Event:
    return Event(time=time, kind="end", node=0, data={"state": state})


@pytest.fixture
def host(tmp_path: Path) -> QueueHost:
    return QueueHost(tmp_path)


def test_a_claim_is_taken_once(host: QueueHost) -> None:
    first = host.claim("one")
    assert first is not None
    assert first.state == "granted"
    assert host.claim("one", attempt=2) is None
    assert host.claim("one", attempt=3, expected=ONE) is not None
    claim = host.queued("one", 0, 0).claim
    assert claim is not None
    assert claim["attempt"] == 3


def test_the_next_is_granted_when_the_holder_has_ended(host: QueueHost) -> None:
    host.claim("one")
    host.claim("two")
    host.launch("one")
    assert host.turn(wanted=("two",)) == {"one": "launched", "two": "waiting"}
    assert host.turn(wanted=("two",), ended=("one",)) == {"two": "granted"}
    found = host.queued("one")
    assert found.entry is not None
    assert (found.live, found.entry.allocations[1].folder, found.end) == (False, "/f1", None)
    assert not Path(found.entry.bundle).exists()


def test_one_launcher_at_a_time_and_the_next_once_it_has_died(host: QueueHost) -> None:
    def launch_of(launcher: str) -> int:
        taken = host.take(launcher=launcher)
        return taken.launch if taken else 0

    host.claim("one")
    assert launch_of("first") == 1
    assert not launch_of("second")
    assert launch_of("first") == 1, "asked again after a lost answer"
    host.now += LEASE - 1
    assert host.ask(RenewLease(id=ONE, launcher="first"))
    host.now += LEASE - 1
    assert not launch_of("second")
    host.now += 2
    assert launch_of("second") == 2
    assert not host.ask(RenewLease(id=ONE, launcher="first"))
    assert not host.ask(FinishStart(id=ONE, launcher="first"))
    assert not host.starting(launcher="first")


def test_what_waits_is_withdrawn_with_its_end_and_what_is_launched_is_not(host: QueueHost) -> None:
    host.claim("one")
    host.claim("two")
    host.launch("one")
    assert host.withdraw(TWO, end_of("Canceled")).withdrawn
    assert not host.withdraw(ONE, end_of("Canceled")).withdrawn
    assert host.queued("two", 0, 0).end == end_of("Canceled")
    assert host.turn() == {"one": "launched"}


def test_a_launch_that_met_a_bad_host_waits_for_others_at_its_old_place(host: QueueHost) -> None:
    host.claim("one", nodes=1)
    host.claim("two", nodes=1)
    host.take()
    reply = host.refuse("a")
    assert reply is not None
    assert (reply.entry.state, reply.able) == ("waiting", ("b",))
    host.launch("two")
    assert host.turn(ended=("two",), wanted=("one",)) == {"one": "granted"}
    entry = host.queued("one").entry
    assert entry is not None
    assert entry.allocations[0].host == "b"


def test_a_claim_whose_answer_was_lost_is_answered_again(host: QueueHost) -> None:
    first = host.claim("one")
    assert first is not None
    assert host.claim_again(first.bundle) == first
    assert host.claim_again("/another") is None, "that is another submitter, who was faster"
    host.launch("one")
    launched = host.claim_again(first.bundle)
    assert launched is not None
    assert launched.state == "launched"
    host.turn(ended=("one",))
    assert host.claim_again(first.bundle) is not None
    host.claim("one", attempt=2, expected=ONE)
    assert host.claim_again(first.bundle) is None


def test_what_is_given_back_or_withdrawn_twice_is_answered_as_the_first_time(host: QueueHost) -> None:
    host.claim("one", nodes=2)
    host.take()
    first = host.refuse("a")
    assert first is not None
    assert first.able == ("b",)
    assert host.refuse("a") == first
    assert host.refuse("a", launcher="other") is None
    assert host.withdraw(ONE, end_of("Failed")).withdrawn
    assert host.withdraw(ONE, end_of("Failed")).withdrawn
    assert not host.withdraw(ONE, end_of("Failed", time=2.0)).withdrawn


def test_an_attempt_that_does_not_own_its_job_is_not_launched(host: QueueHost) -> None:
    host.claim("one")
    host.take(launcher="dies")
    assert host.starting(launcher="dies")
    host.now += LEASE + 1
    host.claim("one", attempt=2, expected=ONE)
    assert host.take(launcher="next") is None
    assert not host.starting(launcher="dies")
    assert host.turn(wanted=("one",), ended=("one",)) == {"one": "granted"}, "of its second attempt, the first has left"


def test_who_ends_an_attempt_whose_launcher_died_takes_its_place_so_that_nobody_launches_it_again(host: QueueHost) -> None:
    host.claim("one")
    host.take(launcher="dies")
    host.starting(launcher="dies")
    host.now += LEASE + 1
    end = end_of("Canceled")
    assert host.withdraw(ONE, end) == WithdrawReply(withdrawn=False, leased=False)
    assert host.take(launcher="ender") is not None
    assert host.take(launcher="watcher") is None
    assert not host.withdraw(ONE, end, launcher="watcher").withdrawn
    assert host.withdraw(ONE, end, launcher="ender").withdrawn
    assert host.queued("one").end == end


def test_what_stores_the_work_of_earlier_ranks_goes_nowhere_else(host: QueueHost) -> None:
    host.claim("one", nodes=1, slots=0, gpus=0, state="granted", allocations=(Allocation(host="b"),))
    host.take()
    reply = host.refuse("b")
    assert reply is not None
    assert reply.able == ()
    host.now += 100_000
    assert host.turn() == {"one": "granted"}, "though nobody wants it"
    entry = host.queued("one").entry
    assert entry is not None
    assert [allocation.host for allocation in entry.allocations] == ["b"]


def test_forget_leaves_nothing(host: QueueHost) -> None:
    host.claim("one")
    host.ask(DeleteJob(job_id="one"))
    assert not host.paths.job("one").job.exists()
    assert host.turn() == {}


@pytest.mark.parametrize("hostile", ["../../../x", "../victim", "..", "a/b", "", "a\0b", ".hidden"])
def test_a_job_id_that_leads_elsewhere_is_refused(tmp_path: Path, hostile: str) -> None:
    host = QueueHost(tmp_path / "a" / "b" / "root")  # so deep that every name leads to a place below tmp_path
    victim = host.paths.root / "victim"
    victim.mkdir(parents=True)
    for message in ({"do": "delete_job", "job_id": hostile}, {"do": "read_attempts", "job_id": hostile}):
        assert "can't be the name of a file" in QueueServer(host.paths).answer(message)["error"]
    id_ = {"job_id": hostile, "generation": 1, "attempt": 1}
    assert "can't be the name" in QueueServer(host.paths).answer({"do": "read_queued", "attempts": [id_]})["error"]
    assert victim.exists()


def test_a_bundle_outside_the_job_s_folder_is_not_deleted(host: QueueHost, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    host.claim("one", bundle=str(other))
    host.launch("one")
    assert other.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"next": "many"}'])
def test_files_that_can_not_be_read_are_set_aside(host: QueueHost, content: str) -> None:
    host.claim("one")
    host.paths.queue.write_text(content)
    host.paths.job("one").claim.write_text(content.replace('"next": "many"', ""))
    assert host.turn() == {}
    assert [path.read_text() for path in host.paths.root.glob("queue.json.broken-*")] == [content]
    assert host.claim("two") is not None
    assert host.turn(wanted=("two",)) == {"two": "granted"}


def test_many_processes_at_once_claim_once_and_lose_no_entry(tmp_path: Path) -> None:
    def start(request: ClaimAttempt) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-I", "-S", str(START), PART, str(tmp_path)]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(json.dumps(request.encode()).encode())
        process.stdin.close()
        return process

    def claim(job: str, number: int = 0) -> ClaimAttempt:
        attempt = AttemptId(job, 1, 1)
        resources = ResourceRequest(nodes=1, slots=1, gpus=0, bundle=str(tmp_path / f"none-{number}"))
        return ClaimAttempt(id=attempt, expected=None, claim=claim_of(attempt), resources=resources, hosts=HOSTS)

    processes = [start(claim("same", n)) for n in range(4)] + [start(claim(f"job-{n}")) for n in range(6)]
    answers = [json.loads(process.stdout.read()) for process in processes if process.stdout is not None]
    assert [process.wait() for process in processes] == [0] * 10
    assert sum(answer["value"] is not None for answer in answers[:4]) == 1
    assert all(answer["value"] is not None for answer in answers[4:])
    queue = json.loads((tmp_path / "queue.json").read_text())
    assert sorted(entry["number"] for entry in queue["entries"]) == list(range(1, 8))
