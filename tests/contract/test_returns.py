"""A lost node is started again only for a run that goes on: not for one that has ended, is told to, or is another attempt's."""

from __future__ import annotations

import dataclasses

from docker_lab import DockerLab
from hosts_lab import HostsLab
from lab import plan_of
from muster.core.handle import JobHandle
from muster.core.verdict import Cause
from muster.node.cancel_request import CancelRequest
from muster.targets.docker import node_restart as docker_returns
from muster.targets.docker.node_files import cancel_file
from muster.targets.hosts.background import background
from muster.targets.ssh import node_restart as ssh_returns
from muster.targets.ssh.jobs import SshJobs

WAITS = "import time; print('ready', flush=True); time.sleep(600)"


def test_a_container_is_started_again_only_for_a_run_that_goes_on(docker_lab: DockerLab) -> None:
    handle = docker_lab.submit(plan_of(WAITS, docker_lab.store.uri, nodes=2))
    docker_lab.wait_for_line(handle)
    engine = docker_lab.target.engine
    assert docker_returns.restart_node(engine, handle, 1), "one that runs is left as it is"
    assert not docker_returns.restart_node(engine, dataclasses.replace(handle, attempt=2), 1)
    assert not docker_returns.restart_node(engine, handle, 2), "there is no such container"
    docker_lab.container(handle).put_archive("/", cancel_file(CancelRequest(cause=Cause.CANCEL, reason="cancelled")))
    assert not docker_returns.restart_node(engine, handle, 1)
    assert docker_lab.target.cancel(handle, 1)
    assert not docker_returns.restart_node(engine, handle, 1)


def test_an_agent_is_started_again_only_for_a_run_that_goes_on(hosts_lab: HostsLab) -> None:
    handle = hosts_lab.submit(plan_of(WAITS, hosts_lab.store.uri, nodes=2))
    hosts_lab.wait_for(handle)
    inventory = hosts_lab.target.inventory

    async def start(wanted: JobHandle) -> bool:
        shared = background()
        return await ssh_returns.restart_node(shared.once(inventory, lambda: SshJobs(inventory, shared)), wanted, 1)

    def again(wanted: JobHandle) -> bool:
        return background().run(start(wanted))

    guardian = hosts_lab.node(handle, 1)[1] / "guardian.json"
    before = guardian.read_text()
    assert again(handle), "one that lives is left as it is"
    assert guardian.read_text() == before
    wish = hosts_lab.node(handle)[1] / "cancel.json"
    wish.write_text("{}")
    assert not again(handle)
    wish.unlink()
    assert hosts_lab.target.cancel(handle, 1)
    assert not again(handle)
