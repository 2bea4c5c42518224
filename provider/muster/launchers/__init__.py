"""The launchers, by name; a launcher is a way for ranks to find each other."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from muster.core.job import TrainingJob
from muster.launchers import mpi, plain, pytorch, tensorflow, torchrun
from muster.launchers.contract import Launcher

MPI = "mpi"
TORCHRUN = "torchrun"

LAUNCHERS: Mapping[str, Launcher] = MappingProxyType(
    {
        launcher.name: launcher
        for launcher in (
            Launcher(name="any", layout=plain.plan, reserved=plain.RESERVED),
            Launcher(name="pytorch", layout=pytorch.plan, reserved=pytorch.RESERVED),
            Launcher(name=TORCHRUN, layout=torchrun.plan, reserved=torchrun.RESERVED),
            Launcher(name=MPI, layout=mpi.plan, reserved=mpi.RESERVED, programs=mpi.PROGRAMS),
            Launcher(name="tensorflow", layout=tensorflow.plan, reserved=tensorflow.RESERVED),
        )
    }
)


def launcher_of(job: TrainingJob) -> Launcher:
    """Return the launcher of a job: MPI's if that is the backend, whatever the framework; torchrun if it is elastic; else the
    framework's own.
    """
    if job.distributed_backend == MPI:
        return LAUNCHERS[MPI]
    return LAUNCHERS[TORCHRUN if job.elastic else job.framework]


def check_job(job: TrainingJob) -> None:
    """Refuse a job that sets a variable of its launcher's.

    :raises RequestError: it does; the message names the variable.
    """
    launcher_of(job).check(job)
