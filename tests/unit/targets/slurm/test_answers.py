"""What becomes of a job when Slurm's answer does not come, when it takes none, and when one ends before it ran."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lab import plan_of
from muster.core.errors import RequestError, TargetError
from muster.core.store_access import StoreAccess
from muster.node.slurm import replies
from muster.targets.contract import Submission
from muster.targets.slurm.ledger import SlurmTiming
from muster.targets.slurm.target import SlurmTarget
from slurm_fake import TIMED_OUT, FakeSlurm

SECRET = "hf_N0body-may-read-this"
SUBMISSION = Submission(
    job_id="job",
    generation=1,
    plan=plan_of("print('started')", "s3://bucket/prefix", nodes=1),
    archive=None,
    access=StoreAccess(access_key="key", secret_key=SECRET),
    secrets={"HF_TOKEN": SECRET},
    requested=time.time(),
)


@pytest.fixture
def slurm(tmp_path: Path) -> FakeSlurm:
    return FakeSlurm.of(tmp_path / "bin")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "shared"


@pytest.fixture
def target(slurm: FakeSlurm, root: Path) -> SlurmTarget:
    target = SlurmTarget.from_fields("slurm", {"root": str(root), "python": sys.executable, "bin": str(slurm.folder)})
    return dataclasses.replace(target, timing=SlurmTiming(answer=0.0))


def secrets_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("code", "said", "outcome"),
    [
        (0, "", "taken"),
        (1, "sbatch: error: invalid partition specified: nosuch", "refused"),
        (1, "sbatch: error: Batch job submission failed: Requested node configuration is not available", "refused"),
        (127, "there is no sbatch on this machine's PATH", "refused"),
        (1, "sbatch: error: QOSMaxSubmitJobPerUserLimit sbatch: error: Job violates accounting/QOS policy", "full"),
        (1, "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", "full"),
        (1, "sbatch: error: Batch job submission failed: Resource temporarily unavailable", "full"),
        (1, "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", "unknown"),
        (1, f"sbatch: error: {TIMED_OUT}", "unknown"),
        (1, "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received", "unknown"),
        (1, "sbatch: error: Batch job submission failed: Connection refused", "unknown"),
        (1, "sbatch: error: Batch job submission failed: Communication connection failure", "unknown"),
        (replies.TIMED_OUT, "sbatch did not end within 300 s", "unknown"),
        (-15, "", "unknown"),
    ],
)
def test_what_sbatch_says_is_told_apart(code: int, said: str, outcome: str) -> None:
    assert replies.submit_outcome(code, said) == outcome


def test_a_job_that_slurm_took_without_saying_so_is_found_again(target: SlurmTarget, slurm: FakeSlurm) -> None:
    slurm.be(sbatch=TIMED_OUT)
    with pytest.raises(TargetError, match=r"did not say whether it has taken run job: .*Socket timed out"):
        target.submit(SUBMISSION)
    handle = target.submit(SUBMISSION)
    assert (handle.found, handle.attempt) == ("attached", 1)
    assert len(slurm.jobs) == 1


def test_a_job_that_slurm_did_not_take_is_followed_by_the_next_attempt(target: SlurmTarget, slurm: FakeSlurm) -> None:
    slurm.be(sbatch="Unable to contact slurm controller (connect failure)", takes=False)
    with pytest.raises(TargetError, match="contact slurm controller"):
        target.submit(SUBMISSION)
    slurm.be()
    handle = target.submit(SUBMISSION)
    assert (handle.found, handle.attempt) == ("launched", 2), "the first may still come, and has a folder of its own"


def test_nobody_follows_as_long_as_slurm_cannot_say_whether_it_has_the_job(target: SlurmTarget, slurm: FakeSlurm) -> None:
    slurm.be(sbatch=TIMED_OUT, squeue="Unable to contact slurm controller (connect failure)")
    for _ in range(2):
        with pytest.raises(TargetError):
            target.submit(SUBMISSION)
    assert len(slurm.jobs) == 1
    slurm.be()
    assert target.submit(SUBMISSION).found == "attached"


@pytest.mark.parametrize(
    ("said", "error"),
    [("invalid partition specified: nosuch", RequestError), ("AssocMaxSubmitJobLimit", TargetError)],
)
def test_nothing_is_left_of_a_job_that_slurm_certainly_did_not_take(
    target: SlurmTarget, slurm: FakeSlurm, root: Path, said: str, error: type[Exception]
) -> None:
    slurm.be(sbatch=said, takes=False)
    with pytest.raises(error, match=said) as caught:
        target.submit(SUBMISSION)
    assert type(caught.value) is error
    assert list((root / "jobs").iterdir()) == []
    slurm.be()
    assert target.submit(SUBMISSION).attempt == 1


# -- credentials of what never ran


def test_a_job_that_is_cancelled_while_it_waits_leaves_no_credentials(
    target: SlurmTarget, slurm: FakeSlurm, root: Path
) -> None:
    handle = target.submit(SUBMISSION)
    assert len(secrets_below(root)) == 2
    assert target.cancel(handle, 1, "changed my mind")
    assert [job["State"] for job in slurm.jobs] == ["CANCELLED"]
    assert secrets_below(root) == []


def test_credentials_of_a_job_that_others_withdrew_go_by_its_cancel(target: SlurmTarget, slurm: FakeSlurm, root: Path) -> None:
    handle = target.submit(SUBMISSION)
    slurm.change(State="CANCELLED")
    assert not target.cancel(handle, 1)
    assert secrets_below(root) == []


def test_a_cancel_by_an_older_attempt_s_handle_deletes_the_owner_s_credentials(
    target: SlurmTarget, slurm: FakeSlurm, root: Path
) -> None:
    first = target.submit(SUBMISSION)
    slurm.change(State="CANCELLED")
    assert target.submit(SUBMISSION).attempt == 2
    slurm.change(State="CANCELLED")
    assert not target.cancel(first, 1)
    assert secrets_below(root) == []


def test_an_attempt_that_could_never_start_leaves_no_credentials(target: SlurmTarget, slurm: FakeSlurm, root: Path) -> None:
    assert target.cancel(target.submit(SUBMISSION), 1)
    slurm.be(reason="BadConstraints")
    with pytest.raises(RequestError, match="what no node has"):
        target.submit(SUBMISSION)
    assert len(slurm.jobs) == 2
    assert secrets_below(root) == []


def test_a_cancel_is_left_for_the_nodes_while_slurm_does_not_answer(target: SlurmTarget, slurm: FakeSlurm, root: Path) -> None:
    handle = target.submit(SUBMISSION)
    slurm.be(squeue="Unable to contact slurm controller (connect failure)")
    with pytest.raises(TargetError, match="contact slurm controller"):
        target.cancel(handle, 1, "changed my mind")
    assert "changed my mind" in (root / "jobs" / "job" / "g1-a1" / "cancel.json").read_text()


def submission(**changes: Any) -> Submission:
    return Submission(**{**SUBMISSION.__dict__, **changes})


def test_a_cancel_of_an_older_generation_leaves_nothing_for_the_newer_one(
    target: SlurmTarget, slurm: FakeSlurm, root: Path
) -> None:
    old = target.submit(SUBMISSION)
    target.submit(submission(generation=2))
    assert not target.cancel(old, 1, "a late on_kill")
    assert not (root / "jobs" / "job" / "g2-a1" / "cancel.json").exists()
    assert [path.parent.name for path in secrets_below(root)] == ["g2-a1"] * 2, "the newer one has its own still"
