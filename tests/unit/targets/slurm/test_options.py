"""What is said to Slurm and read from it: options, script, states; and one watch over a job's restarts."""

from __future__ import annotations

import shlex
import subprocess
import time
from pathlib import Path

import pytest

from lab import plan_of
from muster.core.errors import RequestError, UnknownRun
from muster.core.event import END, NODE_END, STATE, Cursor, Event
from muster.core.handle import JobHandle
from muster.core.paths import BatchPaths
from muster.core.plan import Needs
from muster.core.state import RunState
from muster.core.verdict import Cause
from muster.node.cancel_request import CancelRequest
from muster.node.slurm.claim_chain import ChainEntry
from muster.node.slurm.job_control import BatchRecord, JobFiles, Submitted
from muster.targets import OPTIONS
from muster.targets.claim import Claim
from muster.targets.hosts.ssh_login import SshLogin
from muster.targets.options import Kind
from muster.targets.slurm import query
from muster.targets.slurm.batch_script import Batch
from muster.targets.slurm.cluster import SlurmOutage
from muster.targets.slurm.job_record import JobRecord
from muster.targets.slurm.ledger import SlurmTiming
from muster.targets.slurm.login_node import LoginNode
from muster.targets.slurm.options import Options
from muster.targets.slurm.query import SlurmJobStatus
from muster.targets.slurm.states import HOPELESS, STATES, state_of, waiting_for
from muster.targets.slurm.watch import SlurmWatch
from muster.targets.watch.news import Lines, NodeEnded

CLAIM = Claim(
    job_id="job", generation=1, attempt=1, plan_digest="sha256:0", store="s3://b/p", nodes=2, submitted=0.0, first_started=0.0
)
HANDLE = CLAIM.handle("slurm", "launched")


def batch(folder: Path, options: dict[str, object], **plan: object) -> Batch:
    return Batch(
        claim=CLAIM,
        plan=plan_of("x", "s3://b/p", **plan),  # type: ignore[arg-type]
        paths=BatchPaths(root=folder),
        options=Options.from_fields(options),
        start="/shared/agents/1/muster/node/start.py",
        python="python3",
    )


def test_the_fields_of_a_connection_are_those_that_the_target_knows() -> None:
    declared = {option.name for option in OPTIONS["slurm"] if option.kind is not Kind.CONNECTION}
    logins, jobs = (set(known.__dataclass_fields__) for known in (SshLogin, Options))
    assert declared == {"login", "root", "python"} | (logins - {"name"}) | jobs


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"poll_interval": 0}, "poll_interval"),
        ({"cpus_per_task": "many"}, "cpus_per_task"),
        ({"requeue": "perhaps"}, "requeue"),
        ({"modules": 3}, "modules"),
        ({"wrapper": "it's"}, "wrapper"),
        ({"sbatch_options": "--job-name=mine"}, "--job-name"),
        ({"sbatch_options": ["-N", "4"]}, "-N"),
        ({"sbatch_options": "-a0-3"}, "-a0-3 would change -a"),
        ({"sbatch_options": "-N4"}, "-N4"),
        ({"sbatch_options": "-HvN4"}, "-HvN4"),
        ({"sbatch_options": "--arr=0-3"}, "--arr=0-3 would change --array"),
        ({"sbatch_options": ["--nod", "4"]}, "--nod would change --nodes"),
        ({"sbatch_options": "--nice=5 : --nice=6"}, "the number of jobs"),
        ({"sbatch_options": ["--"]}, "--"),
    ],
)
def test_bad_options_are_refused_by_name(fields: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Options.from_fields(fields)


def test_options_that_only_look_like_ours_are_given_to_sbatch() -> None:
    words = (
        "--nodefile=x",
        "--ntasks-per-core=1",
        "--wait-all-nodes=1",
        "--hold",
        "-p",
        "batch",
        "-A",
        "team",
        "-t5",
        "--mail-user=a",
    )
    assert Options.from_fields({"sbatch_options": list(words)}).sbatch_options == words


@pytest.mark.parametrize("fields", [{"login": "local", "host": "x"}, {"login": "ssh"}, {"login": "elsewhere"}])
def test_logins_that_contradict_themselves_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="login"):
        LoginNode.from_fields(fields)


def test_sbatch_is_asked_for_what_plan_and_connection_want(tmp_path: Path) -> None:
    options = {"partition": "gpu", "qos": "high", "time_limit": "1-0", "gres": "gpu:a100", "sbatch_options": "--nice=5"}
    argv = batch(tmp_path, options, nodes=2, ranks=4, needs=Needs(gpus=4, memory=3 << 30)).argv()
    assert {"--partition=gpu", "--qos=high", "--time=1-0", "--gres=gpu:a100:4", "--mem=3072M", "--cpus-per-task=4"} <= set(argv)
    assert {"--nodes=2", "--ntasks-per-node=1", "--job-name=job", "--comment=muster:job/g1/a1", "--requeue"} <= set(argv)
    assert argv[-1] == "--nice=5"


def test_the_script_keeps_every_word_whole(tmp_path: Path) -> None:
    folder = tmp_path / "it's a $HOME `id`"
    folder.mkdir()
    said = tmp_path / "said"
    fake = tmp_path / "srun"
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{shlex.quote(str(said))}\nexit 7\n')
    fake.chmod(0o755)
    wrapper = ["apptainer", "exec", "my image.sif"]
    made = batch(folder, {"prologue": f"export PATH={tmp_path}:$PATH", "wrapper": wrapper})
    done = subprocess.run(["bash", "-c", made.script()], check=False)
    assert done.returncode == 7, "the step's exit code is the job's"
    assert said.read_text().splitlines()[-9:] == [
        *wrapper,
        "python3",
        "-I",
        "-S",
        "/shared/agents/1/muster/node/start.py",
        "slurm",
        str(folder),
    ]


def test_every_state_is_read_and_unknown_ones_run_on() -> None:
    assert state_of("CANCELLED by 1000").cause is Cause.CANCEL
    assert state_of("TIMEOUT").cause is Cause.DEADLINE
    assert not state_of("SOMETHING_NEW").over
    assert all(state.text for state in STATES.values() if state.over)
    assert waiting_for("Resources") == "for free nodes (Resources)"
    assert waiting_for("ReqNodeNotAvail, UnavailableNodes:node1").startswith("for nodes that are down")
    assert waiting_for("SomethingNew") == "SomethingNew"
    assert all(HOPELESS.values())


def test_answers_of_slurm_are_read() -> None:
    line = "".join(
        text.ljust(width) for text, width in zip(("12", "PENDING", "1", "Resources", ""), query.COLUMNS.values(), strict=True)
    )
    assert query.parse_squeue(line) == {"12": SlurmJobStatus(job="12", name="PENDING", restarts=1, reason="Resources")}
    told = query.parse_sacct("12|CANCELLED by 0|0:0|None assigned\n13|FAILED|7:0|node[1-2]\n")
    assert (told["12"].nodes, told["13"].nodes) == ("", "node[1-2]")
    assert (
        query.parse_nodes("node2|down*|its power is gone\nnode2|down*|its power is gone\n")
        == "node2 is down (its power is gone)"
    )
    partition = query.parse_partition("batch*|2|1-infinite|1:00\nbatch*|1|1-infinite|1:00\nsmall|9|1|5:00\n", "")
    assert partition is not None
    assert (partition.fits(3), partition.fits(4)) == (True, False)


# -- a watch


def known(attempts: int = 1) -> JobRecord:
    claims = [{**CLAIM.__dict__, "attempt": attempt, "history": []} for attempt in range(1, attempts + 1)]
    entries = tuple(ChainEntry(claim=claim, base=1) for claim in claims)
    batch = BatchRecord(submitted=Submitted(job="12"), cancel=None, output="")
    files = JobFiles(next_number=attempts, entries=entries, batches={"g1-a1": batch})
    return JobRecord(job_id="job", files=files)


def lines_of(attempt: int, node: int, *events: Event) -> Lines:
    return Lines(attempt=attempt, node=node, data="".join(e.to_line() for e in events).encode())


def event(kind: str, node: int = 0, **data: object) -> Event:
    return Event(time=1.0, kind=kind, node=node, data=data)


def end(state: str, verdict: dict[str, object] | None = None) -> Event:
    return event(END, state=state, verdict=verdict, manifest=None, digest=None, uri="", metrics={}, files=0)


class NoLogs:
    """A feed of nobody's logs."""

    def follow(self, attempt: int, folders: list[str], offsets: list[int]) -> None:
        """There are none."""

    def finish(self) -> None:
        """There are none."""


def slurm_watch() -> SlurmWatch:
    return SlurmWatch(HANDLE, Cursor(), known(), "/shared", timing=SlurmTiming(), feed=NoLogs())


def last_event(watch: SlurmWatch, cancel: CancelRequest | None, output: str) -> Event:
    watch.record_outside(cancel, output)
    return list(watch.conclude())[-1]


def consume(watch: SlurmWatch, *news: object) -> list[Event]:
    return [found for item in news for found in watch.consume(item)]  # type: ignore[arg-type]


def slurm(name: str, restarts: int = 0, reason: str = "") -> SlurmJobStatus:
    return SlurmJobStatus(job="12", name=name, restarts=restarts, reason=reason)


def test_an_attempt_that_nobody_submitted_is_unknown() -> None:
    with pytest.raises(UnknownRun):
        known().base(JobHandle(**{**HANDLE.__dict__, "attempt": 7}))


def test_what_a_job_waits_for_is_shown_once_per_change() -> None:
    watch = slurm_watch()
    pending = [slurm("PENDING", reason=reason) for reason in ("Priority", "Priority", "Resources", "Resources")]
    shown = consume(watch, *pending, slurm("RUNNING"))
    assert [e.kind for e in shown] == [STATE, STATE]
    assert [e.data["reason"].rpartition("waits ")[2] for e in shown] == [
        "behind jobs of higher priority (Priority)",
        "for free nodes (Resources)",
    ]


def test_an_end_of_the_ranks_own_does_not_wait_for_slurm() -> None:
    watch = slurm_watch()
    consume(watch, slurm("RUNNING"), lines_of(1, 0, end("Completed"), event(NODE_END)), lines_of(1, 1, event(NODE_END, 1)))
    assert not watch.concluded
    consume(watch, NodeEnded(attempt=1, node=0), NodeEnded(attempt=1, node=1))
    assert watch.concluded
    assert last_event(watch, None, "").data["state"] == "Completed"


def test_a_requeued_job_is_watched_on_and_only_its_last_end_counts() -> None:
    watch = slurm_watch()
    preempted = {"cause": "node", "detail": "Slurm job 12 was preempted and queued again"}
    consume(watch, slurm("RUNNING"), lines_of(1, 0, event(STATE, state="Running"), end("Failed", preempted), event(NODE_END)))
    consume(watch, lines_of(1, 1, event(NODE_END, 1)), NodeEnded(attempt=1, node=0), NodeEnded(attempt=1, node=1))
    assert not watch.concluded, "Slurm has the last word on an end that is not the ranks' own"
    shown = consume(watch, slurm("COMPLETING", restarts=1), slurm("PENDING", restarts=1, reason="Resources"))
    assert [e.kind for e in shown] == ["note", STATE]
    assert "preempted and queued again; Slurm starts job 12 again as attempt 2" in shown[0].data["text"]
    consume(watch, lines_of(1, 0, event(STATE, state="late")), slurm("RUNNING", restarts=1))
    shown = consume(watch, lines_of(2, 0, event(STATE, state="Running"), end("Completed"), event(NODE_END)))
    assert watch.cursor.attempt == 2
    assert [e.data["state"] for e in shown] == ["Running"]
    consume(watch, NodeEnded(attempt=2, node=0), NodeEnded(attempt=2, node=1))
    assert watch.concluded


def test_a_lost_job_is_believed_when_it_is_seen_twice() -> None:
    watch = slurm_watch()
    consume(watch, slurm("RUNNING"), slurm("NODE_FAIL"), NodeEnded(attempt=1, node=0), NodeEnded(attempt=1, node=1))
    assert not watch.concluded
    consume(watch, slurm("NODE_FAIL"))
    assert watch.concluded
    data = last_event(watch, None, "srun: error: Node failure on node2").data
    assert data["verdict"]["cause"] == "node"
    assert "node2" in data["verdict"]["detail"]


def test_a_wish_comes_before_what_slurm_makes_of_it() -> None:
    watch = slurm_watch()
    consume(watch, slurm("CANCELLED"), NodeEnded(attempt=1, node=0), NodeEnded(attempt=1, node=1))
    assert watch.concluded
    ended = last_event(watch, CancelRequest(cause=Cause.CANCEL, reason="changed my mind"), "")
    assert (ended.data["state"], ended.data["verdict"]["detail"]) == (RunState.CANCELED.value, "changed my mind")


def test_memory_that_slurm_ended_a_job_for_is_said() -> None:
    watch = slurm_watch()
    consume(watch, slurm("FAILED"), NodeEnded(attempt=1, node=0), NodeEnded(attempt=1, node=1))
    assert last_event(watch, None, "slurmstepd: error: Detected 1 oom-kill event(s)").data["verdict"]["out_of_memory"]


def test_a_cluster_that_does_not_answer_is_shown_once_and_its_return_too() -> None:
    watch = slurm_watch()
    consume(watch, slurm("RUNNING"), lines_of(1, 0, event(STATE, state="Running")))
    away = [SlurmOutage(since=time.monotonic() - seconds, reason="squeue failed") for seconds in (1, 31, 36)]
    shown = consume(watch, *away, slurm("RUNNING"), slurm("RUNNING"))
    assert [e.data["state"] for e in shown] == ["NotResponding", "Running"]
    assert "squeue failed" in shown[0].data["reason"]
