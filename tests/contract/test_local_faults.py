"""Whatever dies, nothing of the run is left alive, and the verdict names what died first."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from lab import Lab, lines, notes, plan_of
from muster.core.handle import JobHandle
from muster.core.paths import NodePaths
from muster.core.plan import Needs
from muster.core.state import RunState
from muster.core.verdict import Cause
from muster.node.host import liveness
from store_server import wait_until

# a rank that keeps a child in a session of its own, which no signal to a group or a session reaches
WITH_STRAY_CHILD = """
import os, subprocess, sys, time
subprocess.Popen(["sleep", "600"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
print("ready", flush=True)
time.sleep(600)
"""

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""


def rank_starts(lab: Lab, handle: JobHandle) -> list[dict[str, Any]]:
    logs = [lab.paths(handle, node).events.read_text() for node in range(2)]
    return [e for log in logs for line in log.splitlines() if (e := json.loads(line))["k"] == "rank_start"]


def kill_pid(paths: NodePaths, which: str) -> None:
    guardian, agent = liveness.pids(str(paths.root))
    if which in ("guardian", "both"):
        os.kill(guardian, signal.SIGKILL)
    if which in ("agent", "both"):
        os.kill(agent, signal.SIGKILL)


def test_a_killed_rank_ends_both_nodes_and_is_named(lab: Lab) -> None:
    handle = lab.submit(plan_of(WITH_STRAY_CHILD, lab.store.uri))
    lab.wait_for_event(handle, "line", count=2)
    victim = next(e["pid"] for e in rank_starts(lab, handle) if e["rank"] == 1)
    os.kill(victim, signal.SIGKILL)
    outcome, _ = lab.wait(handle)
    assert outcome.state is RunState.FAILED
    assert outcome.verdict.summary().startswith("rank 1 on node 1 (")
    assert "signal 9 SIGKILL" in outcome.verdict.summary()
    assert outcome.verdict.others == 1
    assert lab.living(handle) == []


def test_a_missing_module_names_the_package_to_add(lab: Lab) -> None:
    outcome, _ = lab.run("import cv2", nodes=1)
    assert "add 'opencv-python' to pip_packages" in outcome.verdict.summary()


def test_a_program_that_is_not_there_is_a_failure_with_its_reason(lab: Lab) -> None:
    outcome, _ = lab.run("import os; os.execvp('no-such-program', ['x'])", nodes=1)
    assert "FileNotFoundError" in outcome.verdict.summary()


@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize("which", ["agent", "guardian", "both"])
def test_no_rank_survives_the_death_of_an_agent_or_guardian(lab: Lab, node: int, which: str) -> None:
    handle = lab.submit(plan_of(WITH_STRAY_CHILD, lab.store.uri))
    lab.wait_for_event(handle, "line", count=2)
    kill_pid(lab.paths(handle, node), which)
    outcome, _ = lab.wait(handle)
    assert outcome.state is RunState.FAILED
    assert outcome.verdict.cause is Cause.NODE
    assert f"node {node}" in outcome.verdict.summary()
    assert lab.living(handle) == []


def test_a_stopped_agent_is_lost_by_its_silence(lab: Lab) -> None:
    handle = lab.submit(plan_of(WITH_STRAY_CHILD, lab.store.uri))
    lab.wait_for_event(handle, "line", count=2)
    _, agent = liveness.pids(str(lab.paths(handle, 1).root))
    os.kill(agent, signal.SIGSTOP)
    try:
        lab.wait_for_event(handle, "end")
    finally:
        os.kill(agent, signal.SIGCONT)
    outcome, _ = lab.wait(handle)
    assert "silent" in outcome.verdict.summary()
    assert lab.living(handle) == []


@pytest.mark.parametrize("born", ["guardian", "agent"])
def test_a_cancel_that_comes_early_is_a_cancel(lab: Lab, born: str) -> None:
    handle = lab.submit(plan_of(DEAF, lab.store.uri, grace=0.5))
    wait_until(getattr(lab.paths(handle), born).exists)
    assert lab.target.cancel(handle, 1, "changed my mind")
    outcome, _ = lab.wait(handle)
    assert outcome.state is RunState.CANCELED
    assert "changed my mind" in outcome.verdict.summary()
    assert lab.living(handle) == []


def test_a_lost_race_for_a_port_starts_the_gang_once_more(lab: Lab) -> None:
    # the first start finds the port taken, as if another program had been faster
    code = (
        "import os, pathlib, sys\n"
        "first = pathlib.Path(os.environ['MUSTER_OUTPUTS'], 'first')\n"
        "if os.environ['MUSTER_RANK'] == '0' and not first.exists():\n"
        " first.touch(); raise OSError(98, 'Address already in use')\n"
        "print('port', os.environ['MASTER_PORT'])"
    )
    outcome, events = lab.run(code)
    assert outcome.state is RunState.COMPLETED
    assert "lost the race for a port" in notes(events)
    assert any(line.startswith("port ") for line in lines(events, rank=0))


def test_gpus_that_are_not_there_are_refused_by_node(lab: Lab) -> None:
    outcome, events = lab.run("print('started')", needs=Needs(gpus=64))
    assert outcome.verdict.cause is Cause.PREFLIGHT
    assert "node 0" in outcome.verdict.summary()
    assert lines(events) == []
