"""DistributedMPIOperator: any program under MPI, Horovod or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from muster.operators.train import TrainOperator


class DistributedMPIOperator(TrainOperator):
    """
    Runs a script or any program under ``mpirun`` on many nodes, ``process_count_per_node`` ranks on each.

    The nodes need Open MPI and nothing else: no sshd, no keys. A script without an explicit environment gets one with
    ``mpi4py``. The parameters are those of :class:`JobOperator`, and

    :param mpi_arguments: further arguments of ``mpirun``
    """

    framework = "mpi"
    template_fields: Sequence[str] = (*TrainOperator.template_fields, "mpi_arguments")
    ui_color = "#e3def5"

    def __init__(self, *, mpi_arguments: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mpi_arguments = mpi_arguments
