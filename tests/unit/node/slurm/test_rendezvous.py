"""Who owns a run in a shared folder: one of many at once, a restart by the engine, and starts that are not wanted."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from lab import assignment_of, plan_of
from muster.core.paths import JobPaths
from muster.core.verdict import Cause
from muster.node.assignment import Assignment
from muster.node.cancel_request import CancelRequest
from muster.node.slurm import claim_chain, rendezvous, replies
from muster.node.slurm.claim_chain import ChainEntry
from muster.node.slurm.rendezvous import StartRefused


def entry(attempt: int = 1, generation: int = 1, who: int = 0) -> ChainEntry:
    claim = {"job_id": "job", "generation": generation, "attempt": attempt, "history": [], "submitted": 1.0, "who": who}
    return ChainEntry(claim=claim, base=attempt)


def template(attempt: int = 1) -> Assignment:
    return assignment_of(plan_of("x", "s3://b/p"), attempt=attempt)


def ended(paths: JobPaths, cause: str, state: str = "Failed") -> None:
    node = paths.node(1, 1, 0)
    node.root.mkdir(parents=True)
    verdict = {"cause": cause, "detail": "it went so"}
    node.events.write_text(json.dumps({"t": 9.0, "k": "end", "n": 0, "state": state, "verdict": verdict}) + "\n")


@pytest.fixture
def paths(tmp_path: Path) -> JobPaths:
    return JobPaths(root=tmp_path, job_id="job")


def test_of_many_that_take_a_turn_one_gets_it(paths: JobPaths) -> None:
    won: list[int] = []

    def take(who: int) -> None:
        if claim_chain.append(paths, 0, entry(who=who)):
            won.append(who)

    threads = [threading.Thread(target=take, args=(who,)) for who in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert [found.claim["who"] for found in claim_chain.entries(paths)] == won
    assert json.loads(paths.claim.read_text())["attempt"] == 1
    assert [path.name for path in paths.claim_chain.iterdir()] == ["00000000.json"]


def test_a_restart_becomes_the_next_attempt_with_its_history(paths: JobPaths) -> None:
    claim_chain.append(paths, 0, entry())
    assert rendezvous.own(paths, template(), restarts=0) == ((), ())
    ended(paths, "node")
    history, notes = rendezvous.own(paths, template(), restarts=1)
    assert [(past.attempt, past.state, past.ended) for past in history] == [(1, "Failed", 9.0)]
    assert "it went so" in notes[0]
    assert json.loads(paths.claim.read_text())["attempt"] == 2


@pytest.mark.parametrize("cause", ["rank", "cancel", "deadline", "request"])
def test_a_restart_of_a_run_that_has_ended_is_refused(paths: JobPaths, cause: str) -> None:
    claim_chain.append(paths, 0, entry())
    ended(paths, cause)
    with pytest.raises(StartRefused, match="has ended") as caught:
        rendezvous.own(paths, template(), restarts=1)
    assert caught.value.harmless


def test_a_start_whose_run_another_owns_is_refused_and_the_others_hear_of_it(paths: JobPaths) -> None:
    claim_chain.append(paths, 0, entry())
    claim_chain.append(paths, 1, entry(attempt=2))
    meeting = paths.batch(1, 1).leader("12")
    meeting.parent.mkdir(parents=True)
    with pytest.raises(StartRefused, match="attempt 2 of generation 1 owns"):
        rendezvous.lead(paths, meeting, template(), restarts=0)
    with pytest.raises(StartRefused, match="attempt 2 of generation 1 owns"):
        rendezvous.follow(meeting, "job", 1, limit=60.0)


def test_a_leader_that_says_nothing_is_not_waited_for_for_ever(paths: JobPaths, tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="do all nodes see it"):
        rendezvous.follow(tmp_path / "leader-1.json", "job", 1, limit=0.1)


def test_the_first_start_of_a_generation_counts_for_its_deadline(tmp_path: Path) -> None:
    assert rendezvous.first_start(tmp_path / "g1.started", 100.0) == 100.0
    assert rendezvous.first_start(tmp_path / "g1.started", 200.0) == 100.0
    assert [path.name for path in tmp_path.iterdir()] == ["g1.started"]


def row(**shown: str) -> replies.SqueueRow:
    cells = {"State": "COMPLETING", "RestartCnt": "0", **shown}
    return replies.parse_row("".join(cells.get(name, "").ljust(width) for name, width in replies.WIDTHS.items()))


def test_why_slurm_ends_a_job_is_told_apart() -> None:
    preempted = replies.end_reason("12", 0, row(RestartCnt="1", PreemptTime="2026-01-01T00:00:00"))
    assert preempted == CancelRequest(cause=Cause.NODE, reason="Slurm job 12 was preempted and queued again")
    lost = replies.end_reason("12", 0, row(RestartCnt="1"), "srun: error: Node failure on node2\n")
    assert lost.reason == "Slurm job 12 lost node node2 and was queued again"
    assert replies.end_reason("12", 0, row(Reason="TimeLimit")).cause is Cause.DEADLINE
    assert replies.end_reason("12", 1, row(RestartCnt="1")).cause is Cause.CANCEL
    assert replies.end_reason("12", 0, None).cause is Cause.NODE


def test_a_jobs_time_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert replies.seconds_left(row(EndTime="N/A")) is None
    left = replies.seconds_left(row(EndTime="2099-01-01T00:00:00"))
    assert left is not None
    assert left > 0
