"""What fails around a job is named, on every target, or survived."""

from __future__ import annotations

import dataclasses
import threading

from contract.suite.table import case
from contract.suite.target_lab import Ended, TargetLab
from lab import LIMIT, counting, lines, plan_of
from muster.core.handle import JobHandle
from muster.core.state import RunState
from muster.core.verdict import Cause

WAITS = "import time; print('ready', flush=True); time.sleep(600)"
# on the last node a rank takes every block of the disk, goes on talking, and only then fails
FILLS = """
import contextlib, os, time
print("ready", flush=True)
if int(os.environ["MUSTER_NODE"]) < int(os.environ["MUSTER_NODE_COUNT"]) - 1:
    time.sleep(600)
for size in (1 << 20, 4096, 1):
    with contextlib.suppress(OSError), open("outputs/model.bin", "ab", buffering=0) as file:
        while file.write(b"x" * size):
            pass
for number in range(5000):
    print("still here", number)
open("outputs/more.bin", "wb").write(b"x" * 8192)
"""


@case("lost connection")
def test_lost_connection(lab: TargetLab) -> None:
    handle = lab.submit(plan_of(counting(20, 200), lab.store.uri))
    found: list[Ended] = []
    watcher = threading.Thread(target=lambda: found.append(lab.wait(handle)))
    watcher.start()
    lab.watch_lines(handle, 40)
    with lab.connection_lost():
        lab.let_go(handle)
    watcher.join(LIMIT)
    [ended] = found
    assert ended.outcome.state is RunState.COMPLETED, ended.why
    for rank in (0, 1):
        assert ended.lines(rank) == [f"line {i}" for i in range(200)], "no line is lost or told twice"
    lab.finish(handle)


@case("node lost")
def test_node_lost(lab: TargetLab) -> None:
    handle = lab.submit(plan_of(WAITS, lab.store.uri, nodes=3))
    lab.watch_lines(handle, 3)
    lab.lose_node(handle, 1)
    ended = lab.finish(handle)
    assert ended.outcome.state is RunState.FAILED
    assert (ended.verdict.cause, ended.verdict.node) == (Cause.NODE, 1), ended.verdict
    assert "node 1" in ended.verdict.summary()


@case("wrong credentials")
def test_wrong_credentials(lab: TargetLab) -> None:
    wrong = dataclasses.replace(lab.store.access, secret_key="not-the-secret")
    handle = lab.submit(plan_of("print('started')", lab.store.uri), access=wrong)
    ended = lab.finish(handle)
    assert ended.outcome.state is RunState.FAILED
    assert ended.verdict.cause is Cause.REQUEST
    assert "secret" in ended.verdict.summary(), ended.verdict.summary()
    assert lines(ended.events) == []


def on_small_disk(lab: TargetLab, size: int) -> JobHandle:
    """Submit a job whose last node has a disk of so many bytes."""
    plan = plan_of(FILLS, lab.store.uri, nodes=lab.small_disk_node + 1)
    return lab.submit(lab.small_disk(plan, size))


@case("full disk")
def test_full_disk(lab: TargetLab) -> None:
    handle = on_small_disk(lab, 96 << 20)
    ended = lab.finish(handle)
    assert ended.outcome.state is RunState.FAILED
    assert (ended.verdict.cause, ended.verdict.node) == (Cause.NODE, lab.small_disk_node), ended.verdict
    assert "No space left on device" in ended.verdict.summary()
    assert lab.record(handle)["state"] == "Failed"


@case("full disk at the start")
def test_no_room_at_the_start(lab: TargetLab) -> None:
    ended = lab.finish(on_small_disk(lab, 48 << 20))
    assert ended.outcome.state is RunState.FAILED
    assert (ended.verdict.cause, ended.verdict.node) == (Cause.PREFLIGHT, lab.small_disk_node), ended.verdict
    assert "disk" in ended.verdict.summary()
    assert lines(ended.events) == []


@case("clock skew")
def test_clock_skew(lab: TargetLab) -> None:
    plan = lab.skew_clock(plan_of("print('started')", lab.store.uri), node=1, seconds=7200)
    ended = lab.run(plan)
    assert ended.outcome.state is RunState.FAILED, ended.lines()
    assert (ended.verdict.cause, ended.verdict.node) == (Cause.PREFLIGHT, 1), ended.verdict
    assert "clock" in ended.verdict.summary()
    assert lines(ended.events) == []
