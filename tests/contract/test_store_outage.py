"""The store goes away while a run lives, or stays away at its end: nothing is lost."""

from __future__ import annotations

import dataclasses
import os
import signal

import pytest

from lab import Lab, lines, notes, plan_of
from muster.core.errors import TargetError
from muster.core.handle import JobHandle
from muster.core.state import RunState
from muster.core.verdict import Cause
from muster.node.host import liveness

# waits for a word from the test, which comes by a file in its own outputs folder
PATIENT = """
import os, pathlib, time
pathlib.Path("outputs", "model.txt").write_text("weights of " + os.environ["MUSTER_NODE"])
print("waiting", flush=True)
while not pathlib.Path("outputs", "go").exists():
    time.sleep(0.02)
print("went on", flush=True)
"""


def let_go(lab: Lab, handle: JobHandle) -> None:
    for node in range(2):
        (lab.paths(handle, node).outputs / "go").touch()


def test_an_outage_in_mid_run_is_survived(lab: Lab) -> None:
    handle = lab.submit(plan_of(PATIENT, lab.store.uri))
    lab.wait_for_event(handle, "line", count=2)
    lab.store.server.stop()
    try:
        let_go(lab, handle)
        lab.wait_for_event(handle, "rank_end", count=2)
        assert not lab.paths(handle).events.read_bytes().count(b'"k": "end"')
    finally:
        lab.store.server.start()
    outcome, events = lab.wait(handle)
    assert outcome.state is RunState.COMPLETED, notes(events)
    manifest = lab.store.open().manifest(handle.job_id, 1)
    assert {"outputs/model.txt", "outputs/model.node1.txt"} <= {f.path for f in manifest.files}


@pytest.mark.parametrize("way", ["commit", "retry"])
def test_outputs_that_could_not_be_stored_are_committed_later(lab: Lab, way: str) -> None:
    plan = plan_of(PATIENT, lab.store.uri, store_patience=6.0)
    handle = lab.submit(plan)
    lab.wait_for_event(handle, "line", count=2)
    lab.store.server.stop()
    try:
        let_go(lab, handle)
        if way == "retry":
            lab.wait_for_line(handle, "the outputs could not be stored")  # else the last words wait for the store too
        else:
            lab.wait(handle)
    finally:
        lab.store.server.start()
    outcome, _ = lab.wait(handle)
    assert outcome.state is RunState.FAILED
    assert outcome.verdict.cause is Cause.STORE
    assert str(lab.paths(handle).root) in outcome.verdict.summary()
    assert lab.living(handle) == []
    target = lab.target
    check_a_failed_commit(lab, handle)
    again = target.commit(handle, lab.store.access) if way == "commit" else lab.submit(plan, job_id=handle.job_id)
    outcome, events = lab.wait(again)
    assert outcome.state is RunState.COMPLETED
    assert lines(events) == [], "nothing is trained to commit what has been trained"
    manifest = lab.store.open().manifest(handle.job_id, 1)
    assert {"outputs/model.txt", "outputs/model.node1.txt"} <= {f.path for f in manifest.files}
    with pytest.raises(TargetError, match="nothing to commit"):
        target.commit(again, lab.store.access)


def check_a_failed_commit(lab: Lab, handle: JobHandle) -> None:
    """A commit that the store refuses says that the outputs are still to be stored, and leaves them so."""
    refused = dataclasses.replace(lab.store.access, secret_key="not this one")
    outcome, _ = lab.wait(lab.target.commit(handle, refused))
    assert outcome.state is RunState.FAILED
    assert outcome.verdict.cause is Cause.STORE
    assert "its outputs are still not stored" in outcome.verdict.summary()
    assert outcome.verdict.hint.startswith("when the store is back: muster commit ")


def test_a_node_lost_while_files_are_stored_is_no_success(lab: Lab) -> None:
    handle = lab.submit(plan_of(PATIENT, lab.store.uri))
    lab.wait_for_event(handle, "line", count=2)
    lab.store.server.stop()
    try:
        let_go(lab, handle)
        lab.wait_for_event(handle, "rank_end", count=2)
        _, agent = liveness.pids(str(lab.paths(handle, 1).root))
        os.kill(agent, signal.SIGKILL)
    finally:
        lab.store.server.start()
    outcome, _ = lab.wait(handle)
    assert outcome.state is RunState.FAILED
    assert outcome.verdict.summary().startswith("node 1 (")
    assert lab.store.open().manifest(handle.job_id, 1) is None
    assert lab.living(handle) == []
