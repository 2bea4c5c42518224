"""However a run ends, every target says it alike, names what came first, and has nothing left of it."""

from __future__ import annotations

from pathlib import Path

from contract.suite.table import case
from contract.suite.target_lab import TargetLab
from lab import notes, plan_of
from muster.core.event import STATE
from muster.core.state import RunState
from muster.core.verdict import Cause

WAITS = "import time; print('ready', flush=True); time.sleep(600)"
# the rank ignores TERM and has a child in a session of its own, which no signal to a group or a session reaches
STUBBORN = """
import signal, subprocess, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sleep", "600"], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""
MEMORY = 256 << 20  # bytes; enough for Python, not for what the rank wants


def of_rank_1(code: str) -> str:
    """Return a program that only rank 1 runs, while the others wait."""
    return f"import os, time\nprint('ready', flush=True)\nif os.environ['MUSTER_RANK'] != '1': time.sleep(600)\n{code}"


@case("success")
def test_success(lab: TargetLab) -> None:
    code = (
        "import os, pathlib, subprocess\n"
        "rank, node = os.environ['MUSTER_RANK'], os.environ['MUSTER_NODE']\n"
        "pathlib.Path('outputs', f'of-{rank}.txt').write_text('of rank ' + rank)\n"
        "pathlib.Path('outputs', 'model.txt').write_text('the same on all nodes')\n"
        "pathlib.Path('outputs', 'node.txt').write_text('of node ' + node)\n"
        "pathlib.Path('logs', 'train.log').write_text('log of node ' + node)\n"
        "subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "print(os.environ['MASTER_ADDR'], os.environ['MASTER_PORT'])\n"
        "print('trained', rank, 'of', os.environ['MUSTER_WORLD_SIZE'])"
    )
    handle = lab.submit(plan_of(code, lab.store.uri, nodes=3, ranks=2))
    ended = lab.finish(handle)
    assert ended.outcome.state is RunState.COMPLETED, ended.why
    assert [ended.lines(rank)[1:] for rank in range(6)] == [[f"trained {rank} of 6"] for rank in range(6)]
    assert len({ended.lines(rank)[0] for rank in range(6)}) == 1, "all meet at one place"
    assert [event.data["state"] for event in ended.events if event.kind == STATE][-3:] == ["Starting", "Running", "Finalizing"]
    assert "lost" not in notes(ended.events)
    record = lab.record(handle)
    assert record["state"] == "Completed"
    assert [attempt["state"] for attempt in record["attempts"]] == ["Completed"]
    assert [rank["exit_code"] for rank in record["ranks"]] == [0] * 6
    assert {rank["rank"]: rank["node"] for rank in record["ranks"]} == {rank: rank // 2 for rank in range(6)}
    assert set(record["times"]) >= {"preparing", "starting", "running", "finalizing"}
    each = {f"of-{rank}.txt": f"of rank {rank}" for rank in range(6)}
    beside = {"node.txt": "of node 0", "node.node1.txt": "of node 1", "node.node2.txt": "of node 2"}
    fetched = map(Path, lab.store.open().download(handle.job_id, "outputs/*", lab.folder / "got"))
    assert {file.name: file.read_text() for file in fetched} == {**each, **beside, "model.txt": "the same on all nodes"}
    manifest = lab.manifest(handle)
    assert manifest is not None
    logs = {file.path: file.beside for file in manifest.files if file.path.startswith("logs/train")}
    assert logs == {"logs/train.log": "", **{f"logs/train.node{node}.log": "logs/train.log" for node in (1, 2)}}
    assert "logs/train.log differs" in notes(ended.events)


@case("failing rank")
def test_failing_rank(lab: TargetLab) -> None:
    handle = lab.submit(plan_of(of_rank_1("raise ValueError('no such digit: 11')"), lab.store.uri, nodes=3))
    ended = lab.finish(handle)
    assert ended.outcome.state is RunState.FAILED
    verdict = ended.verdict
    assert (verdict.cause, verdict.node, verdict.rank, verdict.exit_code, verdict.others) == (Cause.RANK, 1, 1, 1, 2)
    assert verdict.host == next(node["host"] for node in lab.record(handle)["nodes"] if node["node"] == 1)
    assert verdict.summary().startswith("rank 1 on node 1 (")
    assert "ValueError: no such digit: 11 (exit 1)" in verdict.summary()


@case("signal")
def test_signal(lab: TargetLab) -> None:
    ended = lab.run(plan_of(of_rank_1("os.kill(os.getpid(), 11)"), lab.store.uri))
    assert ended.outcome.state is RunState.FAILED
    verdict = ended.verdict
    assert (verdict.cause, verdict.node, verdict.rank, verdict.signal, verdict.exit_code) == (Cause.RANK, 1, 1, 11, None)
    assert "signal 11 SIGSEGV" in verdict.summary()
    assert not verdict.out_of_memory


@case("out of memory")
def test_out_of_memory(lab: TargetLab) -> None:
    wants_more = of_rank_1(f"held = bytearray({4 * MEMORY}); print('got it all', len(held), flush=True)")
    ended = lab.run(lab.short_of_memory(plan_of(wants_more, lab.store.uri), MEMORY))
    assert ended.outcome.state is RunState.FAILED, ended.why
    verdict = ended.verdict
    assert (verdict.cause, verdict.node, verdict.rank) == (Cause.RANK, 1, 1)
    assert verdict.out_of_memory, verdict
    killed = (verdict.signal, ended.lines(1)) == (9, ["ready"])
    assert killed or "MemoryError" in ended.lines(1)[-1]


@case("cancel")
def test_cancel(lab: TargetLab) -> None:
    handle = lab.submit(plan_of(STUBBORN, lab.store.uri, grace=0.5))
    lab.watch_lines(handle, 2)
    assert not lab.target.cancel(handle, 0, "of another generation"), "only the generation that owns the job is hit"
    assert lab.target.cancel(handle, 1, "changed my mind")
    assert not lab.target.cancel(handle, 1, "again"), "what has ended can't be cancelled"
    ended = lab.finish(handle)
    assert ended.outcome.state is RunState.CANCELED
    assert (ended.verdict.cause, ended.verdict.detail) == (Cause.CANCEL, "changed my mind")


@case("deadline")
def test_deadline(lab: TargetLab) -> None:
    for seconds in (lab.start_time, 10 * lab.start_time):
        ended = lab.run(plan_of(STUBBORN, lab.store.uri, max_run_duration=seconds, grace=0.5))
        assert ended.outcome.state is RunState.CANCELED
        assert ended.verdict.cause is Cause.DEADLINE
        assert f"max_run_duration_seconds = {seconds:g} passed" in ended.verdict.summary()
        if ended.lines():  # else the machine was so busy that the ranks had not started
            break
    assert ended.lines() == ["ready", "ready"]
