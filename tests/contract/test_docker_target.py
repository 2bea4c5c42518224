"""Exactly once on a Docker engine, values that reach the ranks unchanged, and nothing left behind."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from docker_lab import DockerLab
from lab import lines, new_job_id, plan_of
from muster.core.errors import RequestError, StaleGeneration, TargetError, UnknownRun
from muster.core.plan import ContainerOptions, Needs
from muster.core.state import RunState
from muster.targets.docker import termination
from muster.targets.docker.launch import Launch

WAITS = "import time; print('ready', flush=True); time.sleep(600)"


def test_secrets_reach_the_ranks_and_nothing_that_the_engine_tells(docker_lab: DockerLab) -> None:
    secret = "hf_N0body-may-read-this"
    code = (
        "import hashlib, os, time\n"
        "print(hashlib.sha256(os.environ['HF_TOKEN'].encode()).hexdigest(), 'ready', flush=True)\n"
        "time.sleep(600)"
    )
    handle = docker_lab.submit(plan_of(code, docker_lab.store.uri), secrets={"HF_TOKEN": secret})
    docker_lab.wait_for_line(handle)
    told: list[Any] = [docker_lab.engine.api.df(), docker_lab.engine.api.volumes(), docker_lab.engine.api.networks()]
    for container in docker_lab.containers(handle.job_id):
        told += [container.attrs, container.top(ps_args="-eo pid,args"), container.logs().decode(), container.image.history()]
    since = docker_lab.containers(handle.job_id)[0].attrs["Created"]
    told += list(docker_lab.engine.events(since=since[:19] + "Z", until=_now(), decode=True))
    docker_lab.target.cancel(handle, 1)
    _, events = docker_lab.wait(handle)
    assert f"{hashlib.sha256(secret.encode()).hexdigest()} ready" in lines(events, rank=1)
    text = json.dumps(told, default=str)
    for private in (secret, docker_lab.store.access.secret_key, "PRIVATE KEY"):
        assert private not in text
    assert handle.job_id in text


def _now() -> int:
    import time

    return int(time.time()) + 1


SUBMIT = """
import pickle, sys
submission, fields = pickle.load(sys.stdin.buffer)
from muster.targets.docker.target import DockerTarget
print(DockerTarget.from_fields("docker", fields).submit(submission).found.value)
"""


def test_processes_that_submit_at_once_launch_once(docker_lab: DockerLab) -> None:
    import pickle

    plan = plan_of(WAITS, docker_lab.store.uri)
    docker_lab.target.prepare(plan, print)
    submission = docker_lab.submission(plan)
    fields = {"base_image": docker_lab.base_image, "networks": [docker_lab.store.network]}
    text = pickle.dumps((submission, fields))
    argv = [sys.executable, "-c", SUBMIT]
    submitters = [subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
    for submitter in submitters:
        assert submitter.stdin is not None
        submitter.stdin.write(text)
        submitter.stdin.close()
    found = []
    for submitter in submitters:
        assert submitter.stdout is not None
        found.append(submitter.stdout.read().decode().strip())
        submitter.stdout.close()
        assert submitter.wait(120) == 0
    assert sorted(found) == ["attached", "attached", "launched"]
    assert len(docker_lab.containers(submission.job_id)) == 2


def test_a_launch_that_died_halfway_is_cleared_by_the_next_submit(
    docker_lab: DockerLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("print('trained')", docker_lab.store.uri)

    def die(self: Launch, node: int) -> None:
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Launch, "_start", die)
        patch.setattr(Launch, "_undo", lambda self: None)
        with pytest.raises(SystemExit):
            docker_lab.submit(plan, job_id="half-" + new_job_id())
    job_id = next(iter(docker_lab.jobs))
    assert len(docker_lab.left(job_id)) == 3
    monkeypatch.setattr(termination, "LAUNCH_TIME", 1.0)
    handle = docker_lab.submit(plan, job_id=job_id)
    assert (handle.found, handle.attempt) == ("launched", 1)
    assert docker_lab.wait(handle)[0].state is RunState.COMPLETED
    docker_lab.target.release(handle)
    assert docker_lab.left(job_id) == []


def test_a_completed_run_is_taken_and_a_newer_generation_trains_anew(docker_lab: DockerLab) -> None:
    plan, job_id = plan_of("print('trained')", docker_lab.store.uri, nodes=1), new_job_id()
    docker_lab.wait(docker_lab.submit(plan, job_id))
    taken = docker_lab.submit(plan, job_id)
    assert (taken.found, taken.attempt) == ("completed", 1)
    anew = docker_lab.submit(plan, job_id, generation=2)
    assert (anew.found, anew.generation, anew.attempt) == ("launched", 2, 1)
    assert docker_lab.wait(anew)[0].state is RunState.COMPLETED
    assert {node["path"] for node in docker_lab.record(anew)["host_folders"]} == {"/muster/node"}
    with pytest.raises(StaleGeneration, match="generation 2"):
        docker_lab.submit(plan, job_id, generation=1)
    assert len(docker_lab.containers(job_id)) == 1, "what the older generation left is gone"
    docker_lab.target.release(anew)
    assert docker_lab.left(job_id) == []


def test_a_newer_generation_ends_the_older_first(docker_lab: DockerLab) -> None:
    plan, job_id = plan_of(WAITS, docker_lab.store.uri), new_job_id()
    old = docker_lab.submit(plan, job_id)
    docker_lab.wait_for_line(old)
    new = docker_lab.submit(plan, job_id, generation=2)
    assert {c.labels["muster.generation"] for c in docker_lab.containers(job_id)} == {"2"}
    assert not docker_lab.target.cancel(old, 1, "a late on_kill"), "a cancel of the older generation must not hit the newer one"
    docker_lab.wait_for_line(new)
    assert docker_lab.target.cancel(new, 2, "end")
    assert all(c.status == "exited" for c in docker_lab.containers(job_id))


def test_another_plan_is_never_re_attached(docker_lab: DockerLab) -> None:
    job_id = new_job_id()
    first = docker_lab.submit(plan_of(WAITS, docker_lab.store.uri), job_id)
    docker_lab.wait_for_line(first)
    second = docker_lab.submit(plan_of("print('the new code')", docker_lab.store.uri), job_id)
    assert (second.found, second.attempt) == ("launched", 2)
    assert lines(docker_lab.wait(second)[1], rank=0) == ["the new code"]


def test_a_failed_run_is_retried_from_its_last_committed_checkpoint(docker_lab: DockerLab) -> None:
    code = (
        "import os, pathlib, sys, time\n"
        "ckpt = pathlib.Path('checkpoints', 'step')\n"
        "print('resumed at', ckpt.read_text() if ckpt.exists() else 0, flush=True)\n"
        "if os.environ['MUSTER_ATTEMPT'] == '1':\n"
        " if os.environ['MUSTER_RANK'] == '1': time.sleep(600)\n"
        " ckpt.write_text('7')\n"
        " sys.exit(3)"
    )
    plan, job_id = plan_of(code, docker_lab.store.uri), new_job_id()
    first = docker_lab.submit(plan, job_id)
    outcome, _ = docker_lab.wait(first)
    assert outcome.state is RunState.FAILED
    assert outcome.verdict.summary().startswith("rank 0 on node 0 (")
    second = docker_lab.submit(plan, job_id)
    assert second.attempt == 2
    outcome, events = docker_lab.wait(second)
    assert outcome.state is RunState.COMPLETED
    assert lines(events, rank=0) == lines(events, rank=1) == ["resumed at 7"]
    assert [a["state"] for a in docker_lab.record(second)["attempts"]] == ["Failed", "Completed"]
    assert len(docker_lab.containers(job_id)) == 2, "the first attempt's containers are gone"


def test_attempts_are_counted_on_after_the_release(docker_lab: DockerLab) -> None:
    plan = plan_of("raise SystemExit(3)", docker_lab.store.uri, nodes=1)
    first = docker_lab.submit(plan)
    docker_lab.wait(first)
    docker_lab.target.release(first)
    assert docker_lab.left(first.job_id) == []
    from muster.core.codec import from_data
    from muster.node.assignment import AttemptRecord

    past = tuple(from_data(AttemptRecord, attempt) for attempt in docker_lab.record(first)["attempts"])
    submission = docker_lab.submission(plan, first.job_id)
    second = docker_lab.target.submit(dataclasses.replace(submission, past=past, first_started=past[0].started))
    assert (second.found, second.attempt) == ("launched", 2)
    docker_lab.wait(second)
    assert [a["state"] for a in docker_lab.record(second)["attempts"]] == ["Failed", "Failed"]


def test_find_remove_and_their_refusals(docker_lab: DockerLab) -> None:
    with pytest.raises(UnknownRun, match="nobody"):
        docker_lab.target.find("nobody")
    handle = docker_lab.submit(plan_of(WAITS, docker_lab.store.uri, nodes=1))
    docker_lab.wait_for_line(handle)
    assert docker_lab.target.find(handle.job_id).attempt == 1
    with pytest.raises(TargetError, match="still running"):
        docker_lab.target.remove(handle)
    docker_lab.target.release(handle)
    assert len(docker_lab.containers(handle.job_id)) == 1, "what runs is not let go"
    docker_lab.target.cancel(handle, 1)
    docker_lab.target.remove(handle)
    with pytest.raises(UnknownRun):
        docker_lab.target.find(handle.job_id)
    assert docker_lab.left(handle.job_id) == []


@pytest.mark.parametrize("user", ["1234:1234", "4321", "daemon", "nobody:users"])
def test_any_user_has_a_name_and_a_home_and_owns_the_nodes_folder(docker_lab: DockerLab, user: str) -> None:
    code = (
        "import getpass, json, os, pathlib, pwd\n"
        "pathlib.Path('outputs', 'mine.txt').write_text('x')\n"
        "pathlib.Path.home().joinpath('cache').mkdir()\n"
        "print(json.dumps([os.getuid(), os.getgid(), getpass.getuser(), pwd.getpwuid(os.getuid()).pw_name]))"
    )
    options = ContainerOptions(arguments=("--user", user))
    plan = dataclasses.replace(plan_of(code, docker_lab.store.uri), container=options)
    outcome, events = docker_lab.wait(docker_lab.submit(plan))
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    uid, gid, name, known = json.loads(lines(events, rank=1)[0])
    assert name == known
    expected = {"1234:1234": (1234, 1234), "4321": (4321, 0), "daemon": (1, 1), "nobody:users": (65534, 100)}
    assert (uid, gid) == expected[user]


def test_limits_mounts_and_words_of_docker_run_reach_the_container(docker_lab: DockerLab, tmp_path: Path) -> None:
    from muster.core.job import Mount

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("seen")
    options = ContainerOptions(
        mounts=(Mount(source=str(tmp_path / "data"), target="/data"),),
        shm_size=123 << 20,
        arguments=(
            "--ulimit",
            "nofile=4321:5432",
            "--add-host=rack:10.9.8.7",
            "--tmpfs",
            "/fast:size=1m",
            "--cap-add",
            "SYS_NICE",
        ),
    )
    code = (
        "import json, os, pathlib, resource, socket\n"
        "try: pathlib.Path('/data/y').write_text('no')\n"
        "except OSError as error: refused = error.strerror\n"
        "shm = os.statvfs('/dev/shm'); fast = os.statvfs('/fast')\n"
        "print(json.dumps([pathlib.Path('/data/x').read_text(), refused, shm.f_frsize * shm.f_blocks,"
        " fast.f_frsize * fast.f_blocks, resource.getrlimit(resource.RLIMIT_NOFILE), socket.gethostbyname('rack')]))"
    )
    needs = Needs(cpus=1.5, memory=256 << 20)
    plan = dataclasses.replace(plan_of(code, docker_lab.store.uri, nodes=1, needs=needs), container=options)
    handle = docker_lab.submit(plan)
    host = docker_lab.container(handle).attrs["HostConfig"]
    outcome, events = docker_lab.wait(handle)
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    assert json.loads(lines(events)[0]) == ["seen", "Read-only file system", 123 << 20, 1 << 20, [4321, 5432], "10.9.8.7"]
    assert (host["NanoCpus"], host["Memory"], host["Init"]) == (1_500_000_000, 256 << 20, True)


def test_a_store_on_loopback_is_refused(docker_lab: DockerLab) -> None:
    access = dataclasses.replace(docker_lab.store.access, endpoint_url="http://127.0.0.1:1")
    with pytest.raises(RequestError, match="loopback"):
        docker_lab.target.submit(docker_lab.submission(plan_of("", docker_lab.store.uri), access=access))
