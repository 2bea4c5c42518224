"""Exactly once on a real Slurm, and values that reach the ranks of several nodes unchanged."""

from __future__ import annotations

import hashlib

import pytest

from lab import lines, plan_of
from muster.core.errors import StaleGeneration, TargetError, UnknownRun
from muster.core.plan import Needs
from muster.core.state import RunState
from muster.core.verdict import Cause
from slurm_lab import SlurmLab
from store_server import wait_until

WAITS = "import time; print('here', flush=True); time.sleep(600)"


def test_each_node_has_its_own_gpus_by_gres(slurm_lab: SlurmLab) -> None:
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    outcome, events = slurm_lab.run(code, nodes=2, needs=Needs(gpus=2))
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    assert lines(events) == ["0,1", "0,1"]


def test_two_jobs_of_one_node_never_see_the_same_gpu(slurm_lab: SlurmLab) -> None:
    slurm_lab.fields["nodelist"] = "node1"
    code = "import os, pathlib, time; print('gpu', os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(600)"
    plan = plan_of(code, slurm_lab.store.uri, nodes=1, needs=Needs(gpus=1))
    handles = [slurm_lab.submit(plan) for _ in range(2)]
    for handle in handles:
        slurm_lab.wait_for_line(handle, "gpu ")
    for handle in handles:
        slurm_lab.target.cancel(handle, 1)
    seen = [lines(slurm_lab.wait(handle)[1])[0] for handle in handles]
    assert sorted(seen) == ["gpu 0", "gpu 1"]


def test_ranks_see_neither_slurms_own_variables_nor_the_submitters(
    slurm_lab: SlurmLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-submitter")
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "of-airflow")
    _, events = slurm_lab.run("import os; print(sorted(os.environ))", nodes=1)
    seen = lines(events)[0]
    for name in ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "PMI", "AWS_SECRET_ACCESS_KEY", "AIRFLOW"):
        assert name not in seen
    assert "SLURM_JOB_ID" in seen


def test_secrets_reach_the_ranks_and_lie_nowhere_else(slurm_lab: SlurmLab) -> None:
    secret = "hf_N0body-may-read-this"
    code = "import hashlib, os; print(hashlib.sha256(os.environ['HF_TOKEN'].encode()).hexdigest())"
    handle = slurm_lab.submit(plan_of(code, slurm_lab.store.uri), secrets={"HF_TOKEN": secret})
    script = slurm_lab.cluster.run("scontrol", "write", "batch_script", slurm_lab.number(handle), "-")
    assert secret not in script
    assert slurm_lab.store.access.secret_key not in script
    _, events = slurm_lab.wait(handle)
    assert lines(events, rank=1) == [hashlib.sha256(secret.encode()).hexdigest()]
    wait_until(lambda: not slurm_lab.cluster.jobs())
    files = [path for path in slurm_lab.root.rglob("*") if path.is_file()]
    for hidden in (secret, slurm_lab.store.access.secret_key):
        assert [path for path in files if hidden.encode() in path.read_bytes()] == []


def test_a_completed_run_is_taken_and_a_newer_generation_trains_anew(slurm_lab: SlurmLab) -> None:
    plan = plan_of("print('trained')", slurm_lab.store.uri)
    slurm_lab.wait(slurm_lab.submit(plan, job_id="slurm-again"))
    taken = slurm_lab.submit(plan, job_id="slurm-again")
    assert (taken.found, taken.attempt) == ("completed", 1)
    anew = slurm_lab.submit(plan, job_id="slurm-again", generation=2)
    assert (anew.found, anew.generation, anew.attempt) == ("launched", 2, 1)
    assert slurm_lab.wait(anew)[0].state is RunState.COMPLETED
    with pytest.raises(StaleGeneration, match="generation 2"):
        slurm_lab.submit(plan, job_id="slurm-again", generation=1)


def test_a_newer_generation_ends_the_older_first(slurm_lab: SlurmLab) -> None:
    plan = plan_of(WAITS, slurm_lab.store.uri)
    old = slurm_lab.submit(plan, job_id="slurm-older")
    slurm_lab.wait_for_line(old, "here")
    new = slurm_lab.submit(plan, job_id="slurm-older", generation=2)
    assert slurm_lab.living(old) == []
    assert not slurm_lab.target.cancel(old, 1, "a late on_kill"), "a cancel of the older generation must not hit the newer one"
    slurm_lab.wait_for_line(new, "here")
    assert slurm_lab.target.cancel(new, 2, "end")


def test_a_failed_run_is_retried_from_its_last_committed_checkpoint(slurm_lab: SlurmLab) -> None:
    code = (
        "import os, pathlib, sys, time\n"
        "ckpt = pathlib.Path('checkpoints', 'step')\n"
        "print('resumed at', ckpt.read_text() if ckpt.exists() else 0, flush=True)\n"
        "if os.environ['MUSTER_ATTEMPT'] == '1':\n"
        " if os.environ['MUSTER_RANK'] == '1': time.sleep(600)\n"
        " ckpt.write_text('7')\n"
        " sys.exit(3)"
    )
    plan = plan_of(code, slurm_lab.store.uri)
    outcome, _ = slurm_lab.wait(slurm_lab.submit(plan, job_id="slurm-resumes"))
    assert outcome.state is RunState.FAILED
    second = slurm_lab.submit(plan, job_id="slurm-resumes")
    assert second.attempt == 2
    outcome, events = slurm_lab.wait(second)
    assert outcome.state is RunState.COMPLETED
    assert lines(events, rank=0) == ["resumed at 7"]
    assert lines(events, rank=1) == ["resumed at 7"]
    assert [a["state"] for a in slurm_lab.record(second)["attempts"]] == ["Failed", "Completed"]


def test_find_remove_and_their_refusals(slurm_lab: SlurmLab) -> None:
    with pytest.raises(UnknownRun, match="nobody"):
        slurm_lab.target.find("nobody")
    handle = slurm_lab.submit(plan_of(WAITS, slurm_lab.store.uri))
    slurm_lab.wait_for_line(handle, "here")
    assert slurm_lab.target.find(handle.job_id).attempt == 1
    with pytest.raises(TargetError, match="still running"):
        slurm_lab.target.remove(handle)
    assert slurm_lab.target.cancel(handle, 1)
    assert slurm_lab.cluster.jobs() == []
    assert slurm_lab.living(handle) == []
    slurm_lab.target.remove(handle)
    with pytest.raises(UnknownRun):
        slurm_lab.target.find(handle.job_id)


def test_a_killed_submitters_job_is_found_again_by_name_and_comment(slurm_lab: SlurmLab) -> None:
    plan = plan_of(WAITS, slurm_lab.store.uri)
    handle = slurm_lab.submit(plan, job_id="lost-answer")
    number = slurm_lab.number(handle)
    slurm_lab.wait_for_line(handle, "here")
    (slurm_lab.root / "jobs" / "lost-answer" / "g1-a1" / "submitted.json").unlink()
    again = slurm_lab.submit(plan, job_id="lost-answer")
    assert (again.found, again.attempt) == ("attached", 1)
    assert slurm_lab.cluster.jobs() == [number]
    assert slurm_lab.target.cancel(again, 1)


def test_what_check_says_of_a_cluster(slurm_lab: SlurmLab) -> None:
    findings = {finding.what: finding for finding in slurm_lab.target.check()}
    assert all(finding.fine for finding in findings.values()), findings
    assert "3 of 3 nodes" in findings["partition"].text
    assert findings["gpus"].text == "gpu:2"
    slurm_lab.fields["partition"] = "nosuch"
    unfit = [finding for finding in slurm_lab.target.check() if not finding.fine]
    assert [finding.what for finding in unfit] == ["partition"]
    assert "batch" in unfit[0].text


# waits for a word from the test, which comes by a file in its own outputs folder
PATIENT = """
import os, pathlib, time
pathlib.Path("outputs", "model.txt").write_text("weights of " + os.environ["MUSTER_NODE"])
print("waiting", flush=True)
while not pathlib.Path("outputs", "go").exists():
    time.sleep(0.02)
"""


def test_outputs_that_could_not_be_stored_are_committed_later(slurm_lab: SlurmLab) -> None:
    handle = slurm_lab.submit(plan_of(PATIENT, slurm_lab.store.uri, store_patience=6.0))
    for node in range(2):
        slurm_lab.wait_for_line(handle, "waiting", node)
    slurm_lab.store.server.stop()
    try:
        for node in range(2):
            (slurm_lab.paths(handle, node).outputs / "go").touch()
        slurm_lab.wait_for_line(handle, "the outputs could not be stored")  # else the last words wait for the store too
    finally:
        slurm_lab.store.server.start()
    outcome, _ = slurm_lab.wait(handle)
    assert outcome.verdict.cause is Cause.STORE
    again = slurm_lab.target.commit(handle, slurm_lab.store.access)
    assert again.attempt == 2
    outcome, events = slurm_lab.wait(again)
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    assert lines(events) == [], "nothing is trained to commit what has been trained"
    manifest = slurm_lab.store.open().manifest(handle.job_id, 1)
    assert {"outputs/model.txt", "outputs/model.node1.txt"} <= {f.path for f in manifest.files}
    with pytest.raises(TargetError, match="nothing to commit"):
        slurm_lab.target.commit(again, slurm_lab.store.access)
