"""However a run ends, every target says it alike, names what came first, and has nothing left of it."""

from __future__ import annotations

from contract.suite.table import case
from contract.suite.target_lab import TargetLab
from lab import plan_of
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
    """Give a program that only rank 1 runs, while the others wait."""
    return f"import os, time\nprint('ready', flush=True)\nif os.environ['MUSTER_RANK'] != '1': time.sleep(600)\n{code}"


@case("success")
def test_success(lab: TargetLab) -> None:
    code = (
        "import os, pathlib, subprocess\n"
        "rank = os.environ['MUSTER_RANK']\n"
        "pathlib.Path('outputs', f'of-{rank}.txt').write_text('of rank ' + rank)\n"
        "subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "print('trained', rank, 'of', os.environ['MUSTER_WORLD_SIZE'])"
    )
    handle = lab.submit(plan_of(code, lab.store.uri, ranks=2))
    ended = lab.finish(handle)
    assert ended.outcome.state is RunState.COMPLETED, ended.why
    assert sorted(ended.lines()) == [f"trained {rank} of 4" for rank in range(4)]
    for rank in range(4):
        assert lab.stored(handle, f"outputs/of-{rank}.txt").content() == f"of rank {rank}".encode()
    record = lab.record(handle)
    assert record["state"] == "Completed"
    assert [rank["exit_code"] for rank in record["ranks"]] == [0, 0, 0, 0]
    assert {rank["rank"]: rank["node"] for rank in record["ranks"]} == {0: 0, 1: 0, 2: 1, 3: 1}
    assert set(record["times"]) >= {"preparing", "starting", "running", "finalizing"}


@case("failing rank")
def test_failing_rank(lab: TargetLab) -> None:
    ended = lab.run(plan_of(of_rank_1("raise ValueError('no such digit: 11')"), lab.store.uri))
    assert ended.outcome.state is RunState.FAILED
    verdict = ended.verdict
    assert (verdict.cause, verdict.node, verdict.rank, verdict.exit_code, verdict.others) == (Cause.RANK, 1, 1, 1, 1)
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
    assert ended.lines(1) == ["ready"] or "MemoryError" in ended.lines(1)[-1]


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
    ended = lab.run(plan_of(STUBBORN, lab.store.uri, max_run_duration=lab.start_time, grace=0.5))
    assert ended.lines() == ["ready", "ready"]
    assert ended.outcome.state is RunState.CANCELED
    assert ended.verdict.cause is Cause.DEADLINE
    assert f"max_run_duration_seconds = {lab.start_time:g} passed" in ended.verdict.summary()
