"""The keeper: claims are compared and swapped, one launcher at a time, what has ended leaves the queue."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from muster.core.paths import HostPaths
from muster.node.host.queue_control import LEASE, QueueServer

HOSTS = [{"name": name, "slots": 0, "gpus": ["0", "1"], "spare": False} for name in ("a", "b")]
START = Path(__file__).parents[4] / "provider" / "muster" / "node" / "start.py"


class QueueHost:
    """A keeper's folder, and the time there."""

    def __init__(self, root: Path) -> None:
        self.paths = HostPaths(root=root)
        self.now = 1000.0

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        server = QueueServer(self.paths, clock=lambda: self.now)
        with server.locked():
            return json.loads(json.dumps(server.answer({"do": do, **fields})))

    def claim(
        self, job: str, attempt: int = 1, nodes: int = 2, expected: list[int] | None = None, **more: Any
    ) -> dict[str, Any]:
        bundle = self.paths.job(job).job / f"bundle-{attempt}"
        bundle.mkdir(parents=True)
        claim = {"job_id": job, "generation": 1, "attempt": attempt}
        wish = {"nodes": nodes, "slots": 1, "gpus": 2, "bundle": str(bundle), **more}
        return self.ask("claim", job=job, expected=expected, claim=claim, wish=wish, hosts=HOSTS)

    def claim_again(self, job: str, bundle: str) -> dict[str, Any]:
        claim, wish = {"job_id": job, "generation": 1, "attempt": 1}, {"nodes": 2, "slots": 1, "gpus": 2, "bundle": bundle}
        return self.ask("claim", job=job, expected=None, claim=claim, wish=wish, hosts=HOSTS)

    def turn(self, wanted: tuple[str, ...] = (), settled: tuple[str, ...] = ()) -> dict[str, str]:
        keys = {"wanted": [[job, 1, 1] for job in wanted], "settled": [[job, 1, 1] for job in settled]}
        entries = self.ask("turn", hosts=HOSTS, **keys)["entries"]
        return {entry["job"]: entry["state"] for entry in entries}

    def launch(self, job: str, launcher: str = "l") -> None:
        key = {"job": job, "generation": 1, "attempt": 1, "launcher": launcher}
        allocations = self.ask("take", **key)["entry"]["allocations"]
        assert self.ask("starting", **key, folders=[f"/f{n}" for n in range(len(allocations))])["held"]
        assert self.ask("started", **key)["held"]


@pytest.fixture
def host(tmp_path: Path) -> QueueHost:
    return QueueHost(tmp_path)


def test_a_claim_is_taken_once(host: QueueHost) -> None:
    assert host.claim("one")["entry"]["state"] == "granted"
    assert host.claim("one", attempt=2) == {"taken": False}
    assert host.claim("one", attempt=3, expected=[1, 1])["taken"]
    assert host.ask("look", jobs=[["one", 0, 0]])["found"][0]["claim"]["attempt"] == 3


def test_the_next_is_granted_when_the_holder_has_ended(host: QueueHost) -> None:
    host.claim("one")
    host.claim("two")
    host.launch("one")
    assert host.turn(wanted=("two",)) == {"one": "launched", "two": "waiting"}
    assert host.turn(wanted=("two",), settled=("one",)) == {"two": "granted"}
    found = host.ask("look", jobs=[["one", 1, 1]])["found"][0]
    assert (found["live"], found["entry"]["allocations"][1]["folder"], found["end"]) == (False, "/f1", None)
    assert not Path(found["entry"]["bundle"]).exists()


def test_one_launcher_at_a_time_and_the_next_once_it_has_died(host: QueueHost) -> None:
    host.claim("one")
    key = {"job": "one", "generation": 1, "attempt": 1}
    assert host.ask("take", **key, launcher="first")["entry"]["launch"] == 1
    assert not host.ask("take", **key, launcher="second")["taken"]
    assert host.ask("take", **key, launcher="first")["entry"]["launch"] == 1, "asked again after a lost answer"
    host.now += LEASE - 1
    assert host.ask("renew", **key, launcher="first")["held"]
    host.now += LEASE - 1
    assert not host.ask("take", **key, launcher="second")["taken"]
    host.now += 2
    assert host.ask("take", **key, launcher="second")["entry"]["launch"] == 2
    for late in ("renew", "started"):
        assert not host.ask(late, **key, launcher="first")["held"]
    assert not host.ask("starting", **key, launcher="first", folders=["/x", "/y"])["held"]


def test_what_waits_is_withdrawn_with_its_end_and_what_is_launched_is_not(host: QueueHost) -> None:
    host.claim("one")
    host.claim("two")
    host.launch("one")
    key = {"generation": 1, "attempt": 1, "end": {"t": 1.0, "k": "end", "n": 0, "state": "Canceled"}}
    assert host.ask("withdraw", job="two", **key)["withdrawn"]
    assert not host.ask("withdraw", job="one", **key)["withdrawn"]
    assert host.ask("look", jobs=[["two", 0, 0]])["found"][0]["end"]["state"] == "Canceled"
    assert host.turn() == {"one": "launched"}


def test_a_launch_that_met_a_bad_host_waits_for_others_at_its_old_place(host: QueueHost) -> None:
    host.claim("one", nodes=1)
    host.claim("two", nodes=1)
    key = {"job": "one", "generation": 1, "attempt": 1, "launcher": "l"}
    host.ask("take", **key)
    answer = host.ask("refuse", **key, bad={"a": "it is down"}, hosts=HOSTS)
    assert (answer["entry"]["state"], answer["able"]) == ("waiting", ["b"])
    host.launch("two")
    assert host.turn(settled=("two",), wanted=("one",)) == {"one": "granted"}
    assert host.ask("look", jobs=[["one", 1, 1]])["found"][0]["entry"]["allocations"][0]["host"] == "b"


def test_a_claim_whose_answer_was_lost_is_answered_again(host: QueueHost) -> None:
    first = host.claim("one")["entry"]
    assert host.claim_again("one", first["bundle"])["entry"] == first
    assert not host.claim_again("one", "/another")["taken"], "that is another submitter, who was faster"
    host.launch("one")
    assert host.claim_again("one", first["bundle"])["entry"]["state"] == "launched"
    host.turn(settled=("one",))
    assert host.claim_again("one", first["bundle"])["taken"]
    host.claim("one", attempt=2, expected=[1, 1])
    assert not host.claim_again("one", first["bundle"])["taken"]


def test_what_is_given_back_or_withdrawn_twice_is_answered_as_the_first_time(host: QueueHost) -> None:
    host.claim("one", nodes=2)
    key = {"job": "one", "generation": 1, "attempt": 1}
    host.ask("take", **key, launcher="l")
    first = host.ask("refuse", **key, launcher="l", bad={"a": "it is down"}, hosts=HOSTS)
    assert (first["held"], first["able"]) == (True, ["b"])
    assert host.ask("refuse", **key, launcher="l", bad={"a": "it is down"}, hosts=HOSTS) == first
    assert not host.ask("refuse", **key, launcher="other", bad={"a": "it is down"}, hosts=HOSTS)["held"]
    end = {"t": 1.0, "k": "end", "n": 0, "state": "Failed"}
    assert host.ask("withdraw", **key, end=end)["withdrawn"]
    assert host.ask("withdraw", **key, end=end)["withdrawn"]
    assert not host.ask("withdraw", **key, end={**end, "t": 2.0})["withdrawn"]


def test_an_attempt_that_does_not_own_its_job_is_not_launched(host: QueueHost) -> None:
    host.claim("one")
    key = {"job": "one", "generation": 1, "attempt": 1}
    host.ask("take", **key, launcher="dies")
    assert host.ask("starting", **key, launcher="dies", folders=["/f0", "/f1"])["held"]
    host.now += LEASE + 1
    host.claim("one", attempt=2, expected=[1, 1])
    assert not host.ask("take", **key, launcher="next")["taken"]
    assert not host.ask("starting", **key, launcher="dies", folders=["/f0", "/f1"])["held"]
    assert host.turn(wanted=("one",), settled=("one",)) == {"one": "granted"}, "of its second attempt, the first has left"


def test_who_ends_an_attempt_whose_launcher_died_takes_its_place_so_that_nobody_launches_it_again(host: QueueHost) -> None:
    host.claim("one")
    key = {"job": "one", "generation": 1, "attempt": 1}
    host.ask("take", **key, launcher="dies")
    host.ask("starting", **key, launcher="dies", folders=["/f0", "/f1"])
    host.now += LEASE + 1
    end = {"t": 1.0, "k": "end", "n": 0, "state": "Canceled"}
    assert host.ask("withdraw", **key, end=end) == {"withdrawn": False, "leased": False}
    assert host.ask("take", **key, launcher="ender")["taken"]
    assert not host.ask("take", **key, launcher="watcher")["taken"]
    assert not host.ask("withdraw", **key, end=end, launcher="watcher")["withdrawn"]
    assert host.ask("withdraw", **key, end=end, launcher="ender")["withdrawn"]
    assert host.ask("look", jobs=[["one", 1, 1]])["found"][0]["end"]["state"] == "Canceled"


def test_what_stores_the_work_of_earlier_ranks_goes_nowhere_else(host: QueueHost) -> None:
    host.claim("one", nodes=1, slots=0, gpus=0, state="granted", allocations=[{"host": "b", "gpus": [], "folder": ""}])
    key = {"job": "one", "generation": 1, "attempt": 1, "launcher": "l"}
    host.ask("take", **key)
    answer = host.ask("refuse", **key, bad={"b": "it is down"}, hosts=HOSTS)
    assert (answer["held"], answer["able"]) == (True, [])
    host.now += 100_000
    assert host.turn() == {"one": "granted"}, "though nobody wants it"
    entry = host.ask("look", jobs=[["one", 1, 1]])["found"][0]["entry"]
    assert [node["host"] for node in entry["allocations"]] == ["b"]


def test_forget_leaves_nothing(host: QueueHost) -> None:
    host.claim("one")
    host.ask("forget", job="one")
    assert not host.paths.job("one").job.exists()
    assert host.turn() == {}


def test_many_processes_at_once_claim_once_and_lose_no_entry(tmp_path: Path) -> None:
    def start(request: dict[str, Any]) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-I", "-S", str(START), "queue-control", str(tmp_path)]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(json.dumps(request).encode())
        process.stdin.close()
        return process

    def claim(job: str, number: int = 0) -> dict[str, Any]:
        given = {"job_id": job, "generation": 1, "attempt": 1}
        wish = {"nodes": 1, "slots": 1, "gpus": 0, "bundle": str(tmp_path / f"none-{number}")}
        return {"do": "claim", "job": job, "expected": None, "claim": given, "wish": wish, "hosts": HOSTS}

    processes = [start(claim("same", n)) for n in range(4)] + [start(claim(f"job-{n}")) for n in range(6)]
    answers = [json.loads(process.stdout.read()) for process in processes if process.stdout is not None]
    assert [process.wait() for process in processes] == [0] * 10
    assert sum(answer["taken"] for answer in answers[:4]) == 1
    assert all(answer["taken"] for answer in answers[4:])
    queue = json.loads((tmp_path / "queue.json").read_text())
    assert sorted(entry["number"] for entry in queue["entries"]) == list(range(1, 8))
