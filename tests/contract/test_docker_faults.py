"""Whatever dies on a Docker engine, the verdict names what died first, nothing is left alive, and refusals say their reason."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from docker_lab import DockerLab
from lab import lines, new_job_id, notes, plan_of
from muster.core.errors import MusterError, RequestError, TargetError
from muster.core.event import Event
from muster.core.handle import JobHandle
from muster.core.plan import ContainerOptions, EnvironmentRef, JobPlan, Needs
from muster.core.state import RunState
from muster.core.verdict import Cause
from muster.runner import Outcome
from store_server import wait_until

READY = "import time; print('ready', flush=True); time.sleep(600)"


def with_arguments(plan: JobPlan, *arguments: str) -> JobPlan:
    return dataclasses.replace(plan, container=ContainerOptions(arguments=arguments))


@pytest.mark.parametrize("node", [0, 1])
def test_a_killed_container_is_named_with_how_it_ended(docker_lab: DockerLab, node: int) -> None:
    handle = docker_lab.submit(plan_of(READY, docker_lab.store.uri))
    docker_lab.wait_for_line(handle)
    container = docker_lab.container(handle, node)
    container.kill("SIGKILL")
    outcome, events = docker_lab.wait(handle)
    assert outcome.state is RunState.FAILED
    assert (outcome.verdict.cause, outcome.verdict.node) == (Cause.NODE, node)
    assert f"{container.name} ended with exit code 137 (SIGKILL)" in outcome.verdict.summary()
    assert "exit code 137" in notes(events)
    docker_lab.target.release(handle)
    assert docker_lab.left(handle.job_id) == []


def test_a_container_that_somebody_removed_is_named(docker_lab: DockerLab) -> None:
    handle = docker_lab.submit(plan_of(READY, docker_lab.store.uri, nodes=1))
    docker_lab.wait_for_line(handle)
    container = docker_lab.container(handle)
    removed: list[bool] = []

    def remove_once_watched(events: list[Event]) -> None:
        if lines(events) and not removed:
            removed.append(True)
            container.remove(force=True)

    events, _ = docker_lab.watch(handle, until=remove_once_watched)
    outcome = Outcome.from_event(handle, events[-1])
    assert outcome.state is RunState.FAILED
    assert "somebody removed it" in outcome.verdict.summary()


@pytest.mark.parametrize("which", ["agent", "guardian"])
def test_no_rank_survives_the_death_of_an_agent_or_guardian(docker_lab: DockerLab, which: str) -> None:
    handle = docker_lab.submit(plan_of(READY, docker_lab.store.uri))
    docker_lab.wait_for_line(handle)
    docker_lab.wait_for_line(handle, node=1)
    container = docker_lab.container(handle, 1)
    pid = json.loads(container.exec_run(["cat", f"/muster/node/{which}.json"])[1])["pid"]
    container.exec_run(["python3", "-c", f"import os; os.kill({pid}, 9)"])
    outcome, _ = docker_lab.wait(handle)
    assert outcome.state is RunState.FAILED
    assert (outcome.verdict.cause, outcome.verdict.node) == (Cause.NODE, 1)
    wait_until(lambda: {c.status for c in docker_lab.containers(handle.job_id)} == {"exited"}, what="the agents have ended")


def test_outputs_that_the_store_could_not_take_are_committed_later(docker_lab: DockerLab) -> None:
    code = (
        "import pathlib, time\n"
        "pathlib.Path('outputs', 'model.txt').write_text('kept')\n"
        "print('ready', flush=True)\n"
        "while not pathlib.Path('/tmp/go').exists(): time.sleep(0.05)"
    )
    options = ContainerOptions(arguments=("--user", "1234:1234"))
    plan = dataclasses.replace(plan_of(code, docker_lab.store.uri, store_patience=6.0), container=options)
    handle = docker_lab.submit(plan, new_job_id())
    docker_lab.wait_for_line(handle)
    docker_lab.wait_for_line(handle, node=1)
    docker_lab.store.server.stop()
    try:
        for node in (0, 1):
            docker_lab.container(handle, node).exec_run(["touch", "/tmp/go"])
        docker_lab.wait_for_line(handle, "the outputs could not be stored")  # else the last words wait for the store too
    finally:
        docker_lab.store.server.start()
    outcome, _ = docker_lab.wait(handle)
    assert outcome.verdict.cause is Cause.STORE
    wait_until(lambda: {c.status for c in docker_lab.containers(handle.job_id)} == {"exited"}, what="the agents have ended")
    docker_lab.target.release(handle)
    assert len(docker_lab.containers(handle.job_id)) == 2, "outputs that no manifest names are kept"
    check_a_failed_commit(docker_lab, handle)
    third = docker_lab.target.commit(docker_lab.target.find(handle.job_id), docker_lab.store.access)
    assert third.attempt == 3
    outcome, events = docker_lab.wait(third)
    assert outcome.state is RunState.COMPLETED
    assert lines(events) == []
    manifest = docker_lab.store.open().manifest(handle.job_id, 1)
    assert "outputs/model.txt" in {f.path for f in manifest.files}
    docker_lab.target.release(third)
    assert docker_lab.left(handle.job_id) == []


def check_a_failed_commit(lab: DockerLab, handle: JobHandle) -> None:
    """A commit that the store refuses says that the outputs are still to be stored, and leaves them so."""
    second = lab.target.commit(handle, dataclasses.replace(lab.store.access, secret_key="not this one"))
    outcome, _ = lab.wait(second)
    assert outcome.verdict.cause is Cause.STORE
    assert "its outputs are still not stored" in outcome.verdict.summary()
    wait_until(lambda: {c.status for c in lab.containers(handle.job_id)} == {"exited"}, what="the agents have ended")
    lab.target.release(second)
    assert len(lab.containers(handle.job_id)) == 2, "outputs that no manifest names are kept"


# -- refusals, each in one line with the reason, and nothing left


def refusal(lab: DockerLab, plan: JobPlan) -> MusterError:
    """Submit what can't be; gives the refusal, once nothing is left of it."""
    job_id = new_job_id()
    with pytest.raises(MusterError) as caught:
        lab.submit(plan, job_id)
    assert "\n" not in str(caught.value)
    assert lab.left(job_id) == []
    return caught.value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--env", "A=b"), "environment_variables"),
        (("-v=/a:/b",), "use mounts"),
        (("--no-such-flag", "x"), "'--no-such-flag' is not taken; taken are --add-host"),
        (("--ulimit", "nofile=many"), "nofile=1024:2048"),
        (("--user", "nobody-at-all"), "no user 'nobody-at-all'"),
        (("--user", "1:no-such-group"), "no group 'no-such-group'"),
        (("--cap-add", "NOPE"), "unknown capability"),
        (("--device", "/dev/nope"), "/dev/nope"),
        (("--runtime", "nope"), "runtime"),
    ],
)
def test_bad_docker_arguments_are_refused_with_their_reason(docker_lab: DockerLab, arguments: Any, words: str) -> None:
    error = refusal(docker_lab, with_arguments(plan_of("", docker_lab.store.uri), *arguments))
    assert isinstance(error, RequestError), error
    assert words in str(error)


def test_gpus_where_there_are_none_are_refused(docker_lab: DockerLab) -> None:
    error = refusal(docker_lab, plan_of("", docker_lab.store.uri, needs=Needs(gpus=1)))
    assert isinstance(error, RequestError)
    assert "no GPU runtime" in str(error)
    docker_lab.fields["gpus"] = "4"
    assert "2 devices" in str(refusal(docker_lab, plan_of("", docker_lab.store.uri, needs=Needs(gpus=1))))


def test_what_the_engine_has_not_is_named(docker_lab: DockerLab) -> None:
    from muster.core.job import Mount

    plan = plan_of("", docker_lab.store.uri)
    mounts = ContainerOptions(mounts=(Mount(source="/no/such/folder", target="/data"),))
    assert "there is no /no/such/folder" in str(refusal(docker_lab, dataclasses.replace(plan, container=mounts)))
    assert "at least 6MB" in str(refusal(docker_lab, dataclasses.replace(plan, needs=Needs(memory=1 << 20))))
    assert "from 0.01 to" in str(refusal(docker_lab, dataclasses.replace(plan, needs=Needs(cpus=4096))))
    missing = dataclasses.replace(plan, environment=EnvironmentRef(image="localhost:1/no/such:image"))
    assert "localhost:1/no/such:image is not available" in str(refusal(docker_lab, missing))
    docker_lab.fields["networks"] = ["no-such-network"]
    assert "no network no-such-network" in str(refusal(docker_lab, plan))


PYTHONS = {
    "no python": ("#!/bin/sh\nexit 127", "has no program"),
    "old python": (None, "Python 3.9.2"),
}


@pytest.fixture
def images(docker_lab: DockerLab, tmp_path: Any) -> Any:
    """Make images whose Python is missing, or pretends to be an old one."""
    made = []

    def make(dockerfile: str) -> str:
        (tmp_path / "Dockerfile").write_text(f"FROM {docker_lab.base_image}\n{dockerfile}\n")
        image, _ = docker_lab.engine.images.build(path=str(tmp_path), rm=True, forcerm=True)
        made.append(image.id)
        return str(image.id)

    yield make
    for image in made:
        for volume in docker_lab.engine.volumes.list(filters={"label": "muster.agent"}):
            if volume.name.endswith(_place(image)):
                volume.remove()
        docker_lab.engine.images.remove(image, force=True)


def _place(image: str) -> str:
    from muster.targets.docker.agent_volume import volume_name

    return volume_name(image, "python3")


def test_an_image_without_python_or_with_an_old_one_is_refused(docker_lab: DockerLab, images: Any) -> None:
    plan = plan_of("", docker_lab.store.uri)
    without = images("RUN rm -f $(command -v python3) /usr/bin/python3 /usr/local/bin/python3")
    error = refusal(docker_lab, dataclasses.replace(plan, environment=EnvironmentRef(image=without)))
    assert isinstance(error, RequestError)
    assert "has no program 'python3'" in str(error)
    pretend = (
        "RUN p=$(readlink -f $(command -v python3)) && mv $p $p-real && printf '#!/bin/sh\\nexec %s-real -I -S -c "
        '"import sys; sys.version_info = (3, 9, 2); sys.version = \\\\"3.9.2 (old)\\\\"; sys.argv = sys.argv[1:]; '
        'exec(compile(open(sys.argv[0]).read(), sys.argv[0], \\\\"exec\\\\"))" "$3" "$4" "$5"\\n\' $p > $p && chmod +x $p'
    )
    error = refusal(docker_lab, dataclasses.replace(plan, environment=EnvironmentRef(image=images(pretend))))
    assert isinstance(error, RequestError)
    assert "Python 3.9.2" in str(error)
    assert "too old" in str(error)


def test_an_engine_that_does_not_answer_is_named(docker_lab: DockerLab, tmp_path: Any) -> None:
    docker_lab.url = f"unix://{tmp_path}/no.sock"
    with pytest.raises(TargetError, match=r"can't be reached: No such file or directory; start it"):
        docker_lab.submit(plan_of("", docker_lab.store.uri))
    docker_lab.url = "tcp://127.0.0.1:9"
    with pytest.raises(TargetError, match="Connection refused"):
        docker_lab.submit(plan_of("", docker_lab.store.uri))
    [finding] = docker_lab.target.check()
    assert (finding.what, finding.fine) == ("docker engine", False)
    assert "Connection refused" in finding.text
    assert finding.remedy
    docker_lab.jobs.clear()


def test_the_check_names_what_is_missing(docker_lab: DockerLab) -> None:
    docker_lab.fields.update(networks=["no-such-network"], gpus="0")
    fine = {finding.what: finding.fine for finding in docker_lab.target.check()}
    assert fine == {"docker engine": True, "clock": True, "base image": True, "network": False, "gpus": False}


def test_nothing_is_left_running_by_a_relay(docker_lab: DockerLab) -> None:
    """A watcher that goes away takes its relays in the containers with it."""
    import asyncio

    handle = docker_lab.submit(plan_of(READY, docker_lab.store.uri, nodes=1))

    async def watch_a_little() -> None:
        from muster.core.event import Cursor

        watching = docker_lab.target.session().watch({handle: Cursor()})
        async for _, _, event in watching:
            if event.kind == "line":
                break
        await watching.aclose()

    asyncio.run(watch_a_little())
    container = docker_lab.container(handle)
    wait_until(lambda: "relay" not in json.dumps(container.top(ps_args="-eo pid,args")), every=0.2, what="the relay has ended")
