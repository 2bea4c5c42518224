"""How a cluster is reached and asked: over SSH, with its own ways of preparing nodes, once for however many jobs; MPI on it."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from contract.labs import login_node
from frameworks import Frameworks
from lab import lines, plan_of
from mpi_lab import mpi_plan
from muster.core.errors import RequestError
from muster.core.event import LINE, STATE, Cursor, Event
from muster.core.handle import JobHandle
from muster.core.state import RunState
from slurm_cluster import user_name
from slurm_lab import SlurmLab

WAITS = "import time; print('here', flush=True); time.sleep(600)"
HELLO = """
from mpi4py import MPI
import os
world = MPI.COMM_WORLD
print("sum", world.allreduce(world.rank), "of", world.size, "on node", os.environ["MUSTER_NODE"], flush=True)
"""
MANY = 200


def test_a_login_node_over_ssh(slurm_lab: SlurmLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CONF")
    with login_node.running(tmp_path, {}) as sshd:
        slurm_lab.fields.update(sshd.fields, bin=str(slurm_lab.cluster.counting()))
        first = slurm_lab.submit(plan_of(WAITS, slurm_lab.store.uri))
        slurm_lab.wait_for_line(first, "here", node=1)
        assert slurm_lab.target.cancel(first, 1, "seen enough")
        assert slurm_lab.wait(first)[0].state is RunState.CANCELED
        outcome, events = slurm_lab.run("print('over ssh')")
        assert outcome.state is RunState.COMPLETED, outcome.verdict
        assert lines(events) == ["over ssh"] * 2
        slurm_lab.fields["host_key"] = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
        with pytest.raises(RequestError, match=r"127\.0\.0\.1") as caught:
            slurm_lab.target.find(first.job_id)
        assert "key" in str(caught.value)


def test_prologue_wrapper_and_options_reach_the_nodes(slurm_lab: SlurmLab) -> None:
    slurm_lab.fields.update(
        prologue="export FROM_PROLOGUE='a b'",
        wrapper=["env", "FROM_WRAPPER=it's"],
        srun_options="--job-name=step",
        sbatch_options=["--nice=5"],
        cpus_per_task=2,
    )
    code = "import os; print(os.environ['FROM_PROLOGUE'], os.environ['FROM_WRAPPER'])"
    handle = slurm_lab.submit(plan_of(code, slurm_lab.store.uri, nodes=2))
    seen = slurm_lab.cluster.run("scontrol", "show", "job", slurm_lab.number(handle))
    assert "Nice=5" in seen
    assert "CPUs/Task=2" in seen
    _, events = slurm_lab.wait(handle)
    assert lines(events) == ["a b it's"] * 2


def test_a_module_that_there_is_not_ends_the_job_and_is_said(slurm_lab: SlurmLab) -> None:
    slurm_lab.fields["modules"] = "cuda/12 nosuch"
    outcome, _ = slurm_lab.run("print('started')")
    assert outcome.state is RunState.FAILED
    assert "module load failed" in outcome.verdict.summary()


def test_a_watch_on_the_login_node_itself_goes_on_from_its_cursor(slurm_lab: SlurmLab) -> None:
    code = "import time\nfor i in range(40): print('line', i, flush=True); time.sleep(0.05)"
    handle = slurm_lab.submit(plan_of(code, slurm_lab.store.uri))
    first, cursor = slurm_lab.watch(handle, until=lambda seen: len(lines(seen)) >= 25)
    rest, _ = slurm_lab.watch(handle, cursor)
    for rank in (0, 1):
        assert lines([*first, *rest], rank) == [f"line {i}" for i in range(40)]


def test_a_controller_that_does_not_answer_holds_no_end_up(slurm_lab: SlurmLab) -> None:
    code = "import pathlib, time\nprint('here', flush=True)\nwhile not pathlib.Path('outputs', 'go').exists(): time.sleep(0.02)"
    handle = slurm_lab.submit(plan_of(code, slurm_lab.store.uri))

    def let_go() -> None:
        for node in range(2):
            (slurm_lab.paths(handle, node).outputs / "go").touch()

    async def watch() -> list[Event]:
        seen: list[Event] = []
        async for _, _, event in slurm_lab.target.session().watch({handle: Cursor()}):
            seen.append(event)
            if len(lines(seen)) == 2 and event.kind == LINE:
                stopped.enter_context(slurm_lab.cluster.without_controller())
                let_go()
        return seen

    with ExitStack() as stopped:
        events = asyncio.run(asyncio.wait_for(watch(), 240))
    assert events[-1].data["state"] == "Completed"


def test_mpirun_starts_ranks_through_the_agents_and_not_through_slurm(slurm_lab: SlurmLab, frameworks: Frameworks) -> None:
    environment = frameworks.locked("mpi4py==4.1.2")
    plan = mpi_plan(HELLO, slurm_lab.store.uri, 2, 2, environment=environment)
    outcome, events = slurm_lab.wait(slurm_lab.submit(plan))
    assert outcome.state is RunState.COMPLETED, (outcome.verdict, lines(events))
    said = sorted(line for line in lines(events) if line.startswith("sum"))
    assert said == ["sum 6 of 4 on node 0"] * 2 + ["sum 6 of 4 on node 1"] * 2


def many_waiting_jobs(lab: SlurmLab, count: int) -> list[JobHandle]:
    """Return handles of jobs that wait in Slurm's queue; all but the first are copies of it, each a job of its own there."""
    first = lab.submit(plan_of(WAITS, lab.store.uri), job_id="many-0")
    original = lab.root / "jobs" / "many-0"
    handles = [first]
    for index in range(1, count):
        name = f"many-{index}"
        copy = lab.root / "jobs" / name
        shutil.copytree(original, copy)
        for file in (copy / "claim.json", *(copy / "claims").glob("*.json")):
            file.write_text(file.read_text().replace("many-0", name))
        argv = ("sbatch", "--parsable", "--hold", f"--job-name={name}", "--output=/dev/null", "--wrap=true")
        (copy / "g1-a1" / "submitted.json").write_text(json.dumps({"job": lab.cluster.run(*argv)}))
        handles.append(JobHandle(**{**first.__dict__, "job_id": name}))
    return handles


@dataclass
class Triggers:
    """Many watches of waiting jobs in one loop, each a session of its own, as a triggerer has them."""

    lab: SlurmLab
    handles: list[JobHandle]
    waiting: set[str] = field(default_factory=set)

    def asked(self) -> list[str]:
        """Return the questions to Slurm so far."""
        return [line for line in self.lab.cluster.calls.read_text().splitlines() if not line.startswith("sbatch")]

    async def count(self, questions: int) -> tuple[float, list[str]]:
        """Wait until every job has said what it waits for, then for so many questions more; gives seconds and questions."""
        watches = [asyncio.ensure_future(self._watch(self.handles[at::10])) for at in range(10)]
        await _until(lambda: len(self.waiting) == len(self.handles))
        began, before = time.monotonic(), len(self.asked())
        await _until(lambda: len(self.asked()) >= before + questions)
        took, new = time.monotonic() - began, self.asked()[before:]
        for task in watches:
            task.cancel()
        ended = await asyncio.gather(*watches, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended
        return took, new

    async def _watch(self, some: list[JobHandle]) -> None:
        async for handle, _, event in self.lab.target.session().watch({handle: Cursor() for handle in some}):
            if event.kind == STATE:
                assert "held by its user" in event.data["reason"]
                assert handle.job_id not in self.waiting, "a reason that stays is shown once"
                self.waiting.add(handle.job_id)


async def _until(condition: Callable[[], bool], limit: float = 600.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.timeout(1800)  # for two hundred calls of sbatch
def test_hundreds_of_watched_jobs_are_one_question_per_interval(slurm_lab: SlurmLab) -> None:
    interval = 3.0
    slurm_lab.fields.update(bin=str(slurm_lab.cluster.counting()), sbatch_options=["--hold"], poll_interval=interval)
    handles = many_waiting_jobs(slurm_lab, MANY)
    try:
        took, questions = asyncio.run(Triggers(slurm_lab, handles).count(4))
    finally:
        slurm_lab.cluster.run("scancel", f"--user={user_name()}")
    assert {question.split()[0] for question in questions} == {"squeue"}
    assert took >= 2 * interval, f"four questions for the states of {MANY} jobs took {took:.1f} s only"
