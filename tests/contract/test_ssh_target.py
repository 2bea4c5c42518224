"""Exactly once on SSH hosts: real sshd, hosts that share nothing but their network."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from hosts_lab import HostsLab
from lab import lines, plan_of
from muster.core.errors import RequestError, StaleGeneration, TargetError, UnknownRun
from muster.core.job import Mount
from muster.core.plan import ContainerOptions, Needs
from muster.core.state import RunState
from muster.packaging.code import snapshot
from muster.targets.hosts.background import background

WAITS = "import time; print('here', flush=True); time.sleep(600)"


def test_code_travels_to_every_host_once(hosts_lab: HostsLab, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.txt").write_text("the code")
    packed = snapshot.pack(source, tmp_path / "cache" / "snapshots")
    code = "import os, socket; print(open('train.txt').read(), 'of', os.environ['MUSTER_RANK'], 'on', socket.gethostname())"
    plan = replace(plan_of(code, hosts_lab.store.uri, nodes=3), snapshot=packed.digest)
    handle = hosts_lab.submit(plan, archive=packed.archive)
    outcome, events = hosts_lab.wait(handle)
    assert outcome.state is RunState.COMPLETED
    assert hosts_lab.living(handle) == []
    assert sorted(lines(events)) == [f"the code of {n} on rack-{n + 1}" for n in range(3)]
    assert {node["node"]: node["host"] for node in hosts_lab.record(handle)["nodes"]} == {n: f"rack-{n + 1}" for n in range(3)}
    names = [sorted(p.name for p in (hosts_lab.folder(h) / "snapshots").iterdir()) for h in hosts_lab.rack.hosts]
    assert names == [[packed.archive.name]] * 3


def test_secrets_reach_the_ranks_and_stay_nowhere(hosts_lab: HostsLab) -> None:
    code = "import os; print(os.environ['TOKEN'][::-1])"
    handle = hosts_lab.submit(plan_of(code, hosts_lab.store.uri), secrets={"TOKEN": "s3cr3t-value"})
    _, events = hosts_lab.wait(handle)
    assert lines(events) == ["eulav-t3rc3s"] * 2
    for host in hosts_lab.rack.hosts:
        for file in hosts_lab.folder(host).rglob("*"):
            if file.is_file() and "agents" not in file.parts:
                assert b"s3cr3t-value" not in file.read_bytes(), f"{file} holds the secret"


def test_a_completed_run_is_taken_and_a_newer_generation_trains_anew(hosts_lab: HostsLab) -> None:
    plan = plan_of("print('trained')", hosts_lab.store.uri)
    hosts_lab.wait(hosts_lab.submit(plan, job_id="ssh-again"))
    taken = hosts_lab.submit(plan, job_id="ssh-again")
    assert (taken.found, taken.attempt) == ("completed", 1)
    anew = hosts_lab.submit(plan, job_id="ssh-again", generation=2)
    assert (anew.found, anew.generation, anew.attempt) == ("launched", 2, 1)
    assert hosts_lab.wait(anew)[0].state is RunState.COMPLETED
    with pytest.raises(StaleGeneration, match="generation 2"):
        hosts_lab.submit(plan, job_id="ssh-again", generation=1)


def test_a_newer_generation_ends_the_older_first(hosts_lab: HostsLab) -> None:
    plan = plan_of(WAITS, hosts_lab.store.uri)
    old = hosts_lab.submit(plan, job_id="ssh-older")
    hosts_lab.wait_for(old, node=1)
    new = hosts_lab.submit(plan, job_id="ssh-older", generation=2)
    assert hosts_lab.living(old) == []
    assert not hosts_lab.target.cancel(old, 1, "a late on_kill"), "a cancel of the older generation must not hit the newer one"
    hosts_lab.wait_for(new, node=1)
    assert hosts_lab.target.cancel(new, 2, "end")


def test_a_failed_run_is_retried_from_its_last_committed_checkpoint(hosts_lab: HostsLab) -> None:
    code = (
        "import os, pathlib, sys, time\n"
        "ckpt = pathlib.Path('checkpoints', 'step')\n"
        "print('resumed at', ckpt.read_text() if ckpt.exists() else 0, flush=True)\n"
        "if os.environ['MUSTER_ATTEMPT'] == '1':\n"
        " if os.environ['MUSTER_RANK'] == '1': time.sleep(600)\n"
        " ckpt.write_text('7')\n"
        " sys.exit(3)"
    )
    plan = plan_of(code, hosts_lab.store.uri)
    assert hosts_lab.wait(hosts_lab.submit(plan, job_id="ssh-resumes"))[0].state is RunState.FAILED
    second = hosts_lab.submit(plan, job_id="ssh-resumes")
    assert second.attempt == 2
    outcome, events = hosts_lab.wait(second)
    assert outcome.state is RunState.COMPLETED
    assert lines(events) == ["resumed at 7"] * 2
    assert [a["state"] for a in hosts_lab.record(second)["attempts"]] == ["Failed", "Completed"]


def test_outputs_that_the_store_could_not_take_are_committed_later(hosts_lab: HostsLab) -> None:
    code = (
        "import pathlib, time\n"
        "print('ready', flush=True)\n"
        "while not pathlib.Path('go').exists(): time.sleep(0.05)\n"
        "pathlib.Path('outputs', 'model.txt').write_text('kept')"
    )
    plan = plan_of(code, hosts_lab.store.uri, nodes=2, store_patience=6.0)
    handle = hosts_lab.submit(plan, job_id="uncommitted")
    for node in range(2):
        hosts_lab.wait_for(handle, node=node)
    hosts_lab.store.server.stop()
    try:
        for node in range(2):
            (hosts_lab.node(handle, node)[1] / "work" / "go").touch()
        hosts_lab.wait_for(handle, "the outputs could not be stored")  # else the last words wait for the store too
    finally:
        hosts_lab.store.server.start()
    outcome, _ = hosts_lab.wait(handle)
    assert outcome.verdict.cause.value == "store"
    committed = hosts_lab.target.commit(hosts_lab.target.find("uncommitted"), hosts_lab.store.access)
    assert committed.attempt == 2
    outcome, _ = hosts_lab.wait(committed)
    assert outcome.state is RunState.COMPLETED
    assert "outputs/model.txt" in {file.path for file in hosts_lab.store.open().manifest("uncommitted", 1).files}


def test_find_remove_and_their_refusals(hosts_lab: HostsLab) -> None:
    with pytest.raises(UnknownRun, match="nobody"):
        hosts_lab.target.find("nobody")
    handle = hosts_lab.submit(plan_of(WAITS, hosts_lab.store.uri), job_id="removed")
    hosts_lab.wait_for(handle, node=1)
    assert hosts_lab.target.find("removed").attempt == 1
    with pytest.raises(TargetError, match="still running"):
        hosts_lab.target.remove(handle)
    assert hosts_lab.target.cancel(handle, 1)
    hosts_lab.target.remove(handle)
    with pytest.raises(UnknownRun):
        hosts_lab.target.find("removed")
    for host in hosts_lab.rack.hosts:
        assert list((hosts_lab.folder(host) / "jobs").glob("*")) == [] or not (hosts_lab.folder(host) / "jobs").exists()
    assert hosts_lab.queue() == []


def test_what_hosts_can_never_give_is_refused_in_one_line(hosts_lab: HostsLab) -> None:
    too_many = plan_of("", hosts_lab.store.uri, nodes=4)
    with pytest.raises(RequestError, match="4 nodes and 1 processes each were asked for, but target 'ssh' has 3 such hosts"):
        hosts_lab.submit(too_many)
    with pytest.raises(RequestError, match="2 nodes with 5 GPUs"):
        hosts_lab.submit(plan_of("", hosts_lab.store.uri, needs=Needs(gpus=5)))
    mount = ContainerOptions(mounts=(Mount(source="/no/data", target="/no/data"),))
    with pytest.raises(RequestError, match=r"host rack-1: mounts: there is no folder '/no/data'"):
        hosts_lab.submit(replace(plan_of("", hosts_lab.store.uri), container=mount))
    assert hosts_lab.queue() == []


def test_gpus_of_the_inventory_are_the_only_ones_that_ranks_see(hosts_lab: HostsLab) -> None:
    hosts_lab.extra = {host.name: {"gpus": ["1", "3"]} for host in hosts_lab.rack.hosts}
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    _, events = hosts_lab.run(code, needs=Needs(gpus=2))
    assert lines(events) == ["1,3"] * 2
    _, events = hosts_lab.run(code)
    assert lines(events) == ["", ""], "a job that asked for none sees none"


def test_many_jobs_share_one_connection_for_each_host(hosts_lab: HostsLab) -> None:
    code = "import time; print('up', flush=True); time.sleep(3)"
    hosts_lab.until_idle()
    handles = [hosts_lab.submit(plan_of(code, hosts_lab.store.uri, nodes=3)) for _ in range(4)]

    async def all_events() -> tuple[int, list[int]]:
        watching = asyncio.gather(*(hosts_lab.events(handle) for handle in handles))
        await asyncio.sleep(0)
        most = [0, 0, 0]
        while not watching.done():
            now = await asyncio.to_thread(lambda: [host.connections() for host in hosts_lab.rack.hosts])
            most = [max(a, b) for a, b in zip(most, now, strict=True)]
            await asyncio.sleep(0.1)
        return sum(len(lines(events)) for events in watching.result()), most

    told, most = asyncio.run(all_events())
    assert told == 4 * 3
    assert most == [1, 1, 1]
    assert background() is background()
