"""DistributedMPIOperator: any program under MPI, Horovod or not."""

from __future__ import annotations

from muster.operators.train import TrainOperator


class DistributedMPIOperator(TrainOperator):
    """
    Runs a script or any program under ``mpirun`` on many nodes, ``process_count_per_node`` ranks on each.

    The nodes need Open MPI and nothing else: no sshd, no keys. ``mpi_arguments`` are added to the line that starts the ranks.
    Without an environment of its own, a script gets one with ``mpi4py``. The parameters are those of :class:`JobOperator`.
    """

    framework = "mpi"
    ui_color = "#e3def5"
