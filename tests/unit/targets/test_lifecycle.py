"""The lifecycle over a ledger in memory: what every status leads to, and what whoever loses a race is told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from lab import plan_of
from muster.core.errors import RequestError, StaleGeneration, TargetError, UnknownRun
from muster.core.event import END, Event
from muster.core.handle import JobHandle, SubmitResult
from muster.core.plan import JobPlan
from muster.core.store_access import StoreAccess
from muster.targets.claim import AttemptStatus, Claim
from muster.targets.contract import Submission
from muster.targets.lifecycle import Ledger, Lifecycle, Standing

RUNNING, COMPLETED = AttemptStatus.RUNNING, AttemptStatus.COMPLETED
UNCOMMITTED, ENDED = AttemptStatus.UNCOMMITTED, AttemptStatus.ENDED
PLAN = plan_of("print('trained')", "s3://bucket/prefix", nodes=2)
OTHER = plan_of("print('trained otherwise')", "s3://bucket/prefix", nodes=2)
HANDLE = JobHandle(job_id="job", generation=2, attempt=1, target="memory", plan_digest="", store="s3://none")
ACCESS = StoreAccess(access_key="key", secret_key="secret")


def submission(generation: int = 2, plan: JobPlan = PLAN) -> Submission:
    return Submission(job_id="job", generation=generation, plan=plan, archive=Path("code.tar.gz"), access=ACCESS)


def claim(attempt: int = 1, plan: JobPlan = PLAN) -> Claim:
    return Claim(
        job_id="job",
        generation=2,
        attempt=attempt,
        plan_digest=plan.digest(),
        store=plan.store,
        nodes=2,
        submitted=1.0,
        first_started=1.0,
    )


def ended(state: str = "Canceled", cause: str = "cancel") -> Event:
    return Event(time=9.0, kind=END, node=0, data={"state": state, "verdict": {"cause": cause}})


@dataclass
class MemoryLedger(Ledger[Standing]):
    """One job; ``rivals`` own it, one after the other, each just before a launch would."""

    now: Standing = field(default_factory=Standing)
    rivals: list[Standing] = field(default_factory=list)
    ends_as: Standing = field(default_factory=lambda: Standing(status=ENDED, end=ended()))
    did: list[str] = field(default_factory=list)
    launched: list[tuple[Claim, Submission]] = field(default_factory=list)

    target: str = "memory"

    @property
    def location(self) -> str:
        return "nowhere"

    def owner(self, job_id: str) -> Claim | None:
        return self.now.claim

    def standing(self, job_id: str) -> Standing:
        return self.now

    def launch(self, claim: Claim, before: Standing, submission: Submission) -> bool:
        if self.rivals:
            self.now = self.rivals.pop(0)
        if self.now != before:
            self.did.append("lost")
            return False
        self.did.append("launched")
        self.launched.append((claim, submission))
        self.now = Standing(claim=claim, status=RUNNING)
        return True

    def end(self, standing: Standing, reason: str) -> None:
        self.did.append(f"ended: {reason}")
        self.now = replace(self.ends_as, claim=standing.claim)

    def plan_of(self, standing: Standing) -> JobPlan:
        return PLAN

    def delete(self, job_id: str, standing: Standing) -> None:
        self.did.append("deleted")
        self.now = Standing()

    def delete_older(self, standing: Standing) -> None:
        self.did.append("older deleted")


@dataclass
class MemoryTarget(Lifecycle[Standing]):
    memory: MemoryLedger

    @property
    def ledger(self) -> MemoryLedger:
        return self.memory


def of(status: AttemptStatus, plan: JobPlan = PLAN, attempt: int = 1) -> MemoryLedger:
    end = ended("Failed", "store") if status is UNCOMMITTED else None if status is RUNNING else ended()
    return MemoryLedger(now=Standing(claim=claim(attempt, plan), status=status, end=end))


REPLACED = "ended: replaced by a newer submit"


@pytest.mark.parametrize(
    ("status", "generation", "plan", "found", "attempt", "did"),
    [
        (RUNNING, 2, PLAN, "attached", 1, ["older deleted"]),
        (COMPLETED, 2, PLAN, "completed", 1, ["older deleted"]),
        (UNCOMMITTED, 2, PLAN, "launched", 2, ["launched"]),
        (ENDED, 2, PLAN, "launched", 2, ["launched"]),
        (RUNNING, 2, OTHER, "launched", 2, [REPLACED, "launched"]),
        (UNCOMMITTED, 2, OTHER, "launched", 2, ["launched"]),
        (ENDED, 2, OTHER, "launched", 2, ["launched"]),
        (RUNNING, 3, PLAN, "launched", 1, [REPLACED, "launched"]),
        (COMPLETED, 3, OTHER, "launched", 1, ["launched"]),
        (UNCOMMITTED, 3, PLAN, "launched", 1, ["launched"]),
        (ENDED, 3, PLAN, "launched", 1, ["launched"]),
    ],
)
def test_a_submit_follows_the_status_of_the_owner(  # noqa: PLR0917
    status: AttemptStatus, generation: int, plan: JobPlan, found: str, attempt: int, did: list[str]
) -> None:
    ledger = of(status)
    handle = MemoryTarget(ledger).submit(submission(generation, plan))
    assert (handle.found, handle.generation, handle.attempt) == (found, generation, attempt)
    assert handle.target == "memory"
    assert ledger.did == did


def test_the_first_submit_launches() -> None:
    ledger = MemoryLedger()
    handle = MemoryTarget(ledger).submit(submission())
    assert (handle.found, handle.generation, handle.attempt) == (SubmitResult.LAUNCHED, 2, 1)
    assert not ledger.launched[0][0].commit


def test_only_an_attempt_whose_outputs_wait_is_followed_by_one_that_commits() -> None:
    ledgers = {status: of(status) for status in (UNCOMMITTED, ENDED)}
    for ledger in ledgers.values():
        MemoryTarget(ledger).submit(submission())
    assert [ledger.launched[0][0].commit for ledger in ledgers.values()] == [True, False]


def test_what_was_replaced_is_recorded_with_its_end() -> None:
    ledger = of(RUNNING)
    MemoryTarget(ledger).submit(submission(plan=OTHER))
    record = ledger.launched[0][0].history[0]
    assert (record.attempt, record.ended, record.state) == (1, 9.0, "Canceled")


def test_a_run_that_completes_while_it_is_replaced_is_not_trained_again() -> None:
    ledger = of(RUNNING)
    ledger.ends_as = Standing(status=COMPLETED, end=ended("Completed"))
    with pytest.raises(RequestError, match="completed generation 2 with another plan"):
        MemoryTarget(ledger).submit(submission(plan=OTHER))
    assert ledger.did == [REPLACED]


@pytest.mark.parametrize(
    ("rival", "found", "attempt", "did"),
    [
        (RUNNING, "attached", 2, ["lost", "older deleted"]),
        (COMPLETED, "completed", 2, ["lost", "older deleted"]),
        (UNCOMMITTED, "launched", 3, ["lost", "launched"]),
        (ENDED, "launched", 3, ["lost", "launched"]),
    ],
)
@pytest.mark.parametrize("before", [UNCOMMITTED, ENDED])
def test_a_submit_that_loses_the_race_looks_again(
    before: AttemptStatus, rival: AttemptStatus, found: str, attempt: int, did: list[str]
) -> None:
    ledger = of(before)
    ledger.rivals = [of(rival, attempt=2).now]
    handle = MemoryTarget(ledger).submit(submission())
    assert (handle.found, handle.attempt) == (found, attempt)
    assert ledger.did == did


def test_an_older_generation_starts_nothing() -> None:
    ledger = of(RUNNING)
    with pytest.raises(StaleGeneration):
        MemoryTarget(ledger).submit(submission(generation=1))
    assert not ledger.did


def test_a_commit_launches_an_attempt_of_the_same_plan_without_code() -> None:
    ledger = of(UNCOMMITTED)
    handle = MemoryTarget(ledger).commit(HANDLE, ACCESS)
    following, submitted = ledger.launched[0]
    assert (handle.found, handle.attempt) == (SubmitResult.LAUNCHED, 2)
    assert following.commit
    assert following.plan_digest == PLAN.digest()
    assert (submitted.plan, submitted.archive, submitted.access) == (PLAN, None, ACCESS)


@pytest.mark.parametrize("status", [RUNNING, COMPLETED, ENDED])
def test_only_outputs_that_wait_are_committed(status: AttemptStatus) -> None:
    ledger = of(status)
    with pytest.raises(TargetError, match=f"run job has nothing to commit: it is {status.value}"):
        MemoryTarget(ledger).commit(HANDLE, ACCESS)
    assert not ledger.did


def test_a_commit_that_loses_the_race_says_what_to_watch() -> None:
    ledger = of(UNCOMMITTED)
    ledger.rivals = [of(RUNNING, attempt=2).now]
    with pytest.raises(TargetError, match="run job was submitted again meanwhile; watch that attempt"):
        MemoryTarget(ledger).commit(HANDLE, ACCESS)
    assert ledger.did == ["lost"]


@pytest.mark.parametrize("status", list(AttemptStatus))
def test_a_cancel_ends_what_runs_if_its_generation_owns_the_job(status: AttemptStatus) -> None:
    ledger = of(status)
    assert not MemoryTarget(ledger).cancel(HANDLE, 1, "enough")
    assert MemoryTarget(ledger).cancel(HANDLE, 2, "enough") is (status is RUNNING)
    assert ledger.did == (["ended: enough"] if status is RUNNING else [])


def test_what_nobody_owns_is_not_found_not_committed_and_needs_no_cancel() -> None:
    ledger = MemoryLedger()
    for ask in (lambda: MemoryTarget(ledger).find("job"), lambda: MemoryTarget(ledger).commit(HANDLE, ACCESS)):
        with pytest.raises(UnknownRun, match=r"no run 'job' on target memory \(nowhere\); `muster ls`"):
            ask()
    assert not MemoryTarget(ledger).cancel(HANDLE, 2, "enough")


def test_a_job_is_found_however_it_stands() -> None:
    for status in AttemptStatus:
        assert MemoryTarget(of(status, attempt=3)).find("job").attempt == 3


@pytest.mark.parametrize("status", list(AttemptStatus))
def test_only_what_does_not_run_is_removed(status: AttemptStatus) -> None:
    ledger = of(status)
    if status is RUNNING:
        with pytest.raises(TargetError, match="run job is still running; cancel it first"):
            MemoryTarget(ledger).remove(HANDLE)
    else:
        MemoryTarget(ledger).remove(HANDLE)
    assert ledger.did == ([] if status is RUNNING else ["deleted"])
