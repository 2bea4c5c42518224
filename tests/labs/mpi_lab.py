"""Plans that mpirun starts, laid out by the launcher itself, for the lab."""

from __future__ import annotations

import dataclasses

from lab import plan_of
from muster.core.job import TrainingJob
from muster.core.plan import EnvironmentRef, JobPlan, Needs
from muster.launchers import launcher_of

INTERPRETER = "python3"


def mpi_plan(  # noqa: PLR0917
    code: str,
    store: str,
    nodes: int = 3,
    ranks: int = 1,
    arguments: tuple[str, ...] = (),
    environment: EnvironmentRef | None = None,
    mpi_arguments: tuple[str, ...] = (),
    variables: dict[str, str] | None = None,
    command: tuple[str, ...] = (),
    framework: str = "mpi",
    **limits: float,
) -> JobPlan:
    """Return a plan of ``nodes`` × ``ranks`` processes under mpirun that run ``code`` with the environment's own Python."""
    job = TrainingJob(
        name="lab",
        framework=framework,
        command=command or (INTERPRETER, "-c", code, *arguments),
        node_count=nodes,
        process_count_per_node=ranks,
        distributed_backend="mpi",
        mpi_arguments=mpi_arguments,
        environment_variables=variables or {},
    )
    launcher = launcher_of(job)
    return dataclasses.replace(
        plan_of(code, store, nodes=1, env=tuple(job.environment_variables.items()), **limits),
        nodes=launcher.plan(job),
        environment=environment or EnvironmentRef(),
        needs=Needs(programs=launcher.programs),
    )
