"""Exactly once on the local target, and values that reach the ranks unchanged."""

from __future__ import annotations

import hashlib
import json

import pytest

from lab import Lab, lines, plan_of
from muster.core.errors import StaleGeneration, TargetError, UnknownRun
from muster.core.state import RunState
from muster.node.ranks.supervisor import QUIET_FLUSH

WAITS = "import time; print('here', flush=True); time.sleep(600)"


def test_references_to_the_jobs_own_variables_are_expanded(lab: Lab) -> None:
    arguments = ("$MUSTER_RANK of $MUSTER_WORLD_SIZE", "${DATA}/train", "$NOT_KNOWN")
    _, events = lab.run("import sys; print(sys.argv[1:])", arguments=arguments, env=(("DATA", "/data"),))
    assert lines(events, rank=1) == ["['1 of 2', '/data/train', '$NOT_KNOWN']"]


def test_the_submitters_credentials_stay_with_the_submitter(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-submitter")
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "of-airflow")
    outcome, events = lab.run("import os; print(sorted(os.environ))", nodes=1)
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    assert "AWS_SECRET_ACCESS_KEY" not in lines(events)[0]
    assert "AIRFLOW" not in lines(events)[0]


def test_secrets_reach_the_ranks_and_lie_nowhere_else(lab: Lab) -> None:
    secret = "hf_N0body-may-read-this"
    code = "import hashlib, os; print(hashlib.sha256(os.environ['HF_TOKEN'].encode()).hexdigest())"
    handle = lab.submit(plan_of(code, lab.store.uri), secrets={"HF_TOKEN": secret})
    _, events = lab.wait(handle)
    assert lines(events, rank=1) == [hashlib.sha256(secret.encode()).hexdigest()]
    left = [path for path in lab.root.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert left == []


def test_a_line_that_is_being_written_is_not_cut(lab: Lab) -> None:
    code = (
        "import sys, time\n"
        "slow = []\n"
        "for i in range(10):\n"
        "    began = time.monotonic()\n"
        "    sys.stdout.write('half'); sys.stdout.flush(); time.sleep(0.1)\n"
        "    sys.stdout.write(f' and half {i}\\n'); sys.stdout.flush()\n"
        f"    slow += [i] * (time.monotonic() - began > {QUIET_FLUSH / 2})\n"
        "print(slow)\n"
    )
    outcome, events = lab.run(code, nodes=1)
    assert outcome.state is RunState.COMPLETED
    whole, cut, rest = [], [], ""
    for event in (event for event in events if event.kind == "line"):
        rest += event.data["text"]
        if event.data.get("part"):
            cut.append(len(whole))
        else:
            whole.append(rest)
            rest = ""
    *halves, slow = whole
    assert halves == [f"half and half {i}" for i in range(10)]
    assert set(cut) <= set(json.loads(slow)), "only a line that this machine was slow to write may be shown in two parts"


def test_half_lines_and_bad_bytes_are_shown(lab: Lab) -> None:
    _, events = lab.run("import os; os.write(1, b'\\xff no end')", nodes=1)
    assert lines(events) == ["\N{REPLACEMENT CHARACTER} no end"]


def test_a_completed_run_is_taken_and_a_newer_generation_trains_anew(lab: Lab) -> None:
    plan = plan_of("print('trained')", lab.store.uri)
    lab.wait(lab.submit(plan, job_id="again"))
    taken = lab.submit(plan, job_id="again")
    assert (taken.found, taken.attempt) == ("completed", 1)
    anew = lab.submit(plan, job_id="again", generation=2)
    assert (anew.found, anew.generation, anew.attempt) == ("launched", 2, 1)
    assert lab.wait(anew)[0].state is RunState.COMPLETED
    with pytest.raises(StaleGeneration, match="generation 2"):
        lab.submit(plan, job_id="again", generation=1)


def test_a_newer_generation_ends_the_older_first(lab: Lab) -> None:
    plan = plan_of(WAITS, lab.store.uri)
    old = lab.submit(plan, job_id="older")
    lab.wait_for_event(old, "line", count=2)
    new = lab.submit(plan, job_id="older", generation=2)
    assert lab.living(old) == []
    assert not lab.target.cancel(old, 1, "a late on_kill"), "a cancel of the older generation must not hit the newer one"
    lab.wait_for_event(new, "line", count=2)
    assert lab.target.cancel(new, 2, "end")


def test_another_plan_is_never_re_attached(lab: Lab) -> None:
    first = lab.submit(plan_of(WAITS, lab.store.uri), job_id="other-plan")
    lab.wait_for_event(first, "line", count=2)
    second = lab.submit(plan_of("print('the new code')", lab.store.uri), job_id="other-plan")
    assert (second.found, second.attempt) == ("launched", 2)
    assert lab.living(first) == []
    assert lines(lab.wait(second)[1], rank=0) == ["the new code"]


def test_a_failed_run_is_retried_from_its_last_committed_checkpoint(lab: Lab) -> None:
    code = (
        "import os, pathlib, sys, time\n"
        "ckpt = pathlib.Path('checkpoints', 'step')\n"
        "print('resumed at', ckpt.read_text() if ckpt.exists() else 0, flush=True)\n"
        "if os.environ['MUSTER_ATTEMPT'] == '1':\n"
        " if os.environ['MUSTER_RANK'] == '1': time.sleep(600)\n"
        " ckpt.write_text('7')\n"
        " sys.exit(3)"
    )
    plan = plan_of(code, lab.store.uri)
    outcome, _ = lab.wait(lab.submit(plan, job_id="resumes"))
    assert outcome.state is RunState.FAILED
    second = lab.submit(plan, job_id="resumes")
    assert second.attempt == 2
    outcome, events = lab.wait(second)
    assert outcome.state is RunState.COMPLETED
    assert lines(events, rank=0) == ["resumed at 7"]
    assert lines(events, rank=1) == ["resumed at 7"], "a checkpoint of rank 0 is put in place on every node"
    assert [a["state"] for a in lab.record(second)["attempts"]] == ["Failed", "Completed"]


def test_find_remove_and_their_refusals(lab: Lab) -> None:
    with pytest.raises(UnknownRun, match="nobody"):
        lab.target.find("nobody")
    handle = lab.submit(plan_of(WAITS, lab.store.uri))
    lab.wait_for_event(handle, "line", count=2)
    assert lab.target.find(handle.job_id).attempt == 1
    with pytest.raises(TargetError, match="still running"):
        lab.target.remove(handle)
    lab.target.cancel(handle, 1)
    lab.target.remove(handle)
    with pytest.raises(UnknownRun):
        lab.target.find(handle.job_id)
