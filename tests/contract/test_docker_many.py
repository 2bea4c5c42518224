"""Many MPI jobs in a row on one engine: no race at their start, and nothing of them stays."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from docker_lab import JOB, DockerLab
from frameworks import Frameworks
from lab import lines
from mpi_lab import mpi_plan
from muster import runner
from muster.core.state import RunState
from muster.targets.docker import agent_volume

if TYPE_CHECKING:
    from docker import DockerClient

JOBS = 50
HELLO = """
from mpi4py import MPI
world = MPI.COMM_WORLD
print("sum", world.allreduce(world.rank), "of", world.size, flush=True)
"""


def everything(engine: DockerClient) -> dict[str, set[str]]:
    """Return what jobs have on an engine, but for caches: images, and volumes with the agent. Builds run beside this test."""
    volumes = engine.volumes.list()
    containers = engine.containers.list(all=True, ignore_removed=True)
    return {
        "containers": {container.id for container in containers if {JOB, agent_volume.LABEL} & set(container.labels)},
        "networks": {network.id for network in engine.networks.list()},
        "volumes": {volume.name for volume in volumes if not volume.name.startswith("muster-agent-")},
    }


@pytest.mark.timeout(3600)
def test_fifty_mpi_jobs_of_three_containers_leave_nothing(docker_lab: DockerLab, frameworks: Frameworks) -> None:
    ref = frameworks.locked("mpi4py==4.1.2")
    plan = mpi_plan(HELLO, docker_lab.store.uri, 3, 1, environment=dataclasses.replace(ref, mpi=True))
    before = everything(docker_lab.engine)
    for number in range(JOBS):
        handle = docker_lab.submit(plan)
        outcome, events = docker_lab.wait(handle)
        assert outcome.state is RunState.COMPLETED, (number, outcome.verdict, lines(events))
        assert [lines(events, rank) for rank in range(3)] == [["sum 3 of 3"]] * 3, number
        assert handle.attempt == 1
        runner.release(docker_lab.target, handle)
    assert docker_lab.engine.containers.list(all=True, filters={"label": JOB}, ignore_removed=True) == []
    assert everything(docker_lab.engine) == before
