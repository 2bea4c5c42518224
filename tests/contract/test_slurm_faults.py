"""What Slurm does to jobs: waiting, preempting, ending at its limits, losing nodes; and requests that it can't meet."""

from __future__ import annotations

import hashlib
import json
import os
import signal

import pytest

from lab import lines, notes, plan_of
from muster.core.errors import RequestError
from muster.core.handle import JobHandle
from muster.core.plan import Needs
from muster.core.state import RunState
from muster.core.store_keys import RunKeys
from muster.core.verdict import Cause
from slurm_lab import SlurmLab, queued, states
from store_server import pieces_of, wait_until

WAITS = "import time; print('here', flush=True); time.sleep(600)"
# two ranks that train step by step, each with its own state; what they end with depends on every step. A first attempt that is
# to be interrupted waits for that at step 60
TRAINS = """
import json, os, pathlib, sys, time
rank, interrupted = int(os.environ["MUSTER_RANK"]), sys.argv[1:] == ["interrupted"] and os.environ["MUSTER_ATTEMPT"] == "1"
file = pathlib.Path("checkpoints", f"rank-{rank}.json")
state = json.loads(file.read_text()) if file.exists() else {"step": 0, "weights": [0.5, -0.25, 0.125]}
print("begins at step", state["step"], flush=True)
while state["step"] < 120:
    step, weights = state["step"], state["weights"]
    gradient = [(w - 0.1 * (i + 1)) * (1 + ((step * 7 + rank) % 5) / 10) for i, w in enumerate(weights)]
    state = {"step": step + 1, "weights": [w - 0.05 * g for w, g in zip(weights, gradient)]}
    scratch = file.with_suffix(".new")
    scratch.write_text(json.dumps(state)); os.replace(scratch, file)
    if (step + 1) % 10 == 0: print("step", step + 1, flush=True)
    while interrupted and step + 1 == 60: time.sleep(1)
pathlib.Path("outputs", f"weights-{rank}.json").write_text(json.dumps(state["weights"]))
"""


def interrupted_at_60(lab: SlurmLab) -> JobHandle:
    """Submit the training that waits to be interrupted; gives its handle once the store has its checkpoints of step 60."""
    handle = lab.submit(plan_of(TRAINS, lab.store.uri, arguments=("interrupted",), grace=2.0))
    bucket, keys = lab.store.open().bucket, RunKeys(job_id=handle.job_id, generation=1)
    for node in (0, 1):
        lab.wait_for_line(handle, "step 60", node)
        digest = hashlib.sha256((lab.paths(handle, node).checkpoints / f"rank-{node}.json").read_bytes()).hexdigest()
        wait_until(lambda n=node, d=digest: d in json.dumps(bucket.get_json(keys.checkpoint_marker(n))), what="it is stored")
    return handle


def weights(lab: SlurmLab, handle: JobHandle) -> list[bytes]:
    store = lab.store.open()
    return [b"".join(pieces_of(store, handle.job_id, f"outputs/weights-{rank}.json")) for rank in (0, 1)]


# -- requests that can't be met


@pytest.mark.parametrize(
    ("fields", "nodes", "needs", "words"),
    [
        ({"partition": "nosuch"}, 1, Needs(), "invalid partition specified: nosuch"),
        (
            {},
            9,
            Needs(),
            "more nodes than its partition has or gives one job .PartitionNodeLimit.; partition batch has 3 nodes",
        ),
        ({"partition": "small"}, 2, Needs(), "more nodes than its partition"),
        ({"partition": "short", "time_limit": "60"}, 1, Needs(), "a longer time than its partition allows .*5:00 of time"),
        ({"constraint": "h100"}, 1, Needs(), "Invalid feature specification"),
        ({}, 1, Needs(gpus=5), "Requested node configuration is not available"),
        ({"gres": "tpu"}, 1, Needs(gpus=1), "Invalid generic resource"),
        ({"time_limit": "soon"}, 1, Needs(), "Invalid --time specification"),
    ],
)
def test_what_slurm_can_never_give_is_refused_in_one_line_and_nothing_is_left(
    slurm_lab: SlurmLab, fields: dict[str, str], nodes: int, needs: Needs, words: str
) -> None:
    slurm_lab.fields.update(fields)
    with pytest.raises(RequestError, match=words) as caught:
        slurm_lab.submit(plan_of("print('started')", slurm_lab.store.uri, nodes=nodes, needs=needs), job_id="refused")
    assert "\n" not in str(caught.value)
    assert slurm_lab.cluster.jobs() == []
    assert list((slurm_lab.root / "jobs").glob("*")) == []


def test_a_login_node_without_slurm_is_said(slurm_lab: SlurmLab) -> None:
    slurm_lab.fields["bin"] = "/nonexistent"
    with pytest.raises(RequestError, match="bin"):
        slurm_lab.submit(plan_of("print('started')", slurm_lab.store.uri))


# -- how ranks end


def test_a_failing_rank_is_named_and_slurms_accounting_has_its_code(slurm_lab: SlurmLab) -> None:
    code = "import os, sys, time\nif os.environ['MUSTER_RANK'] == '2': sys.exit(7)\ntime.sleep(600)"
    handle = slurm_lab.submit(plan_of(code, slurm_lab.store.uri, nodes=2, ranks=2))
    number = slurm_lab.number(handle)
    outcome, _ = slurm_lab.wait(handle)
    assert outcome.state is RunState.FAILED
    assert (outcome.verdict.cause, outcome.verdict.rank, outcome.verdict.exit_code) == (Cause.RANK, 2, 7)
    assert outcome.verdict.others == 3
    assert slurm_lab.living(handle) == []
    told_by = ["sacct", "-X", "-n", "-P", "-j", number, "--format=State,ExitCode"]
    wait_until(lambda: slurm_lab.cluster.run(*told_by) == "FAILED|7:0", every=0.3, what="accounting has the rank's code")


def test_a_rank_that_takes_more_memory_than_slurm_gives_is_out_of_memory(slurm_lab: SlurmLab) -> None:
    code = "import time; print('here', flush=True); x = bytearray(900 << 20); time.sleep(600)"
    outcome, _ = slurm_lab.run(code, nodes=1, needs=Needs(memory=400 << 20))
    assert outcome.state is RunState.FAILED
    assert outcome.verdict.out_of_memory, outcome.verdict


def test_a_job_cancelled_by_scancel_is_cancelled_and_says_by_what(slurm_lab: SlurmLab) -> None:
    handle = slurm_lab.submit(plan_of(WAITS, slurm_lab.store.uri))
    slurm_lab.wait_for_line(handle, "here")
    slurm_lab.cluster.run("scancel", slurm_lab.number(handle))
    outcome, _ = slurm_lab.wait(handle)
    assert outcome.state is RunState.CANCELED
    assert "scancel" in outcome.verdict.summary()
    assert slurm_lab.record(handle)["state"] == "Canceled"
    assert slurm_lab.living(handle) == []


def test_slurms_time_limit_is_a_deadline(slurm_lab: SlurmLab) -> None:
    slurm_lab.fields["time_limit"] = "1"
    handle = slurm_lab.submit(plan_of(WAITS, slurm_lab.store.uri, grace=35.0))
    outcome, _ = slurm_lab.wait(handle)
    assert outcome.state is RunState.CANCELED
    assert outcome.verdict.cause is Cause.DEADLINE
    assert "time limit of Slurm job" in outcome.verdict.summary()
    assert slurm_lab.record(handle)["state"] == "Canceled"
    assert slurm_lab.living(handle) == []


# -- waiting


def test_a_job_that_waits_says_for_what_and_can_be_cancelled(slurm_lab: SlurmLab) -> None:
    first = slurm_lab.submit(plan_of(WAITS, slurm_lab.store.uri, nodes=3, needs=Needs(gpus=2)))
    slurm_lab.wait_for_line(first, "here")
    second = slurm_lab.submit(plan_of("print('my turn')", slurm_lab.store.uri, nodes=2, needs=Needs(gpus=2)))
    third = slurm_lab.submit(plan_of("print('never')", slurm_lab.store.uri, nodes=2, needs=Needs(gpus=2)))
    seen, _ = slurm_lab.watch(second, until=lambda events: any("free nodes" in text for text in queued(events)))
    assert "for free nodes (Resources)" in queued(seen)[-1]
    assert len(set(queued(seen))) == len(queued(seen)), "each reason is shown once"
    assert slurm_lab.target.cancel(third, 1, "changed my mind")
    outcome, _ = slurm_lab.wait(third)
    assert (outcome.state, outcome.verdict.summary()) == (RunState.CANCELED, "changed my mind")
    assert slurm_lab.target.cancel(first, 1)
    outcome, events = slurm_lab.wait(second)
    assert outcome.state is RunState.COMPLETED
    assert lines(events, rank=0) == ["my turn"]


# -- starting again


def test_a_preempted_job_ends_with_the_weights_of_an_undisturbed_one(slurm_lab: SlurmLab) -> None:
    undisturbed = slurm_lab.submit(plan_of(TRAINS, slurm_lab.store.uri))
    assert slurm_lab.wait(undisturbed)[0].state is RunState.COMPLETED

    handle = interrupted_at_60(slurm_lab)
    urgent = slurm_lab.cluster.run(
        *("sbatch", "--parsable", "--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
    )
    outcome, events = slurm_lab.wait(handle)
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    assert weights(slurm_lab, handle) == weights(slurm_lab, undisturbed)
    begins = [int(line.rpartition(" ")[2]) for line in lines(events, rank=0) if line.startswith("begins")]
    assert begins == [0, 60]
    assert "preempted and queued again" in notes(events)
    assert states(events).count("Completed") == 0
    attempts = slurm_lab.record(handle)["attempts"]
    assert [(a["attempt"], a["state"]) for a in attempts] == [(1, "Failed"), (2, "Completed")]
    assert "preempted" in attempts[0]["verdict"]["detail"]
    assert slurm_lab.target.find(handle.job_id).attempt == 2
    assert urgent


def test_a_node_that_slurm_takes_down_has_the_job_go_on_elsewhere(slurm_lab: SlurmLab) -> None:
    handle = interrupted_at_60(slurm_lab)
    name = slurm_lab.cluster.run("squeue", "--noheader", "--jobs", slurm_lab.number(handle), "-o", "%N")
    assert name == "node[1-2]"
    try:
        slurm_lab.cluster.take_down("node2")
        outcome, events = slurm_lab.wait(handle)
    finally:
        slurm_lab.cluster.bring_up("node2")
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    assert "lost node node2 and was queued again" in notes(events)
    assert len(slurm_lab.record(handle)["attempts"]) == 2


def test_a_node_that_is_lost_with_its_daemon_fails_the_run_and_is_named(slurm_lab: SlurmLab) -> None:
    handle = slurm_lab.submit(plan_of(WAITS, slurm_lab.store.uri, grace=2.0))
    slurm_lab.wait_for_line(handle, "here", node=1)
    try:
        slurm_lab.cluster.kill_node("node2")
        outcome, _ = slurm_lab.wait(handle)
    finally:
        slurm_lab.cluster.revive_node("node2")
    assert outcome.state is RunState.FAILED
    assert outcome.verdict.cause is Cause.NODE
    assert "node 1" in outcome.verdict.summary() or "node2" in outcome.verdict.summary()
    assert slurm_lab.living(handle) == []


def test_a_node_without_power_has_the_job_go_on_elsewhere(slurm_lab: SlurmLab) -> None:
    handle = interrupted_at_60(slurm_lab)
    try:
        slurm_lab.cluster.cut_power("node2")
        outcome, events = slurm_lab.wait(handle)
    finally:
        slurm_lab.cluster.revive_node("node2")
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    assert "attempt 1 ended" in notes(events)
    assert [a["state"] for a in slurm_lab.record(handle)["attempts"]] == ["Failed", "Completed"]


def test_without_requeue_a_node_without_power_fails_the_run_and_is_named(slurm_lab: SlurmLab) -> None:
    slurm_lab.fields["requeue"] = False
    handle = slurm_lab.submit(plan_of(WAITS, slurm_lab.store.uri, grace=2.0))
    slurm_lab.wait_for_line(handle, "here", node=1)
    try:
        slurm_lab.cluster.cut_power("node2")
        outcome, _ = slurm_lab.wait(handle)
    finally:
        slurm_lab.cluster.revive_node("node2")
    assert outcome.state is RunState.FAILED
    assert outcome.verdict.cause is Cause.NODE
    assert "node 1" in outcome.verdict.summary() or "node2" in outcome.verdict.summary()


@pytest.mark.parametrize("which", ["guardian", "agent"])
def test_no_rank_survives_the_death_of_an_agent_or_guardian(slurm_lab: SlurmLab, which: str) -> None:
    handle = slurm_lab.submit(plan_of(WAITS, slurm_lab.store.uri))
    slurm_lab.wait_for_line(handle, "here", node=1)
    os.kill(json.loads(getattr(slurm_lab.paths(handle, 1), which).read_text())["pid"], signal.SIGKILL)
    outcome, _ = slurm_lab.wait(handle)
    assert outcome.state is RunState.FAILED
    assert outcome.verdict.cause is Cause.NODE
    assert "node 1" in outcome.verdict.summary()
    assert slurm_lab.living(handle) == []
