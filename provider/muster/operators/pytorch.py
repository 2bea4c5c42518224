"""PyTorchTrainOperator: training with PyTorch's launcher."""

from __future__ import annotations

from muster.operators.train import TrainOperator


class PyTorchTrainOperator(TrainOperator):
    """
    Trains with PyTorch on many nodes: every rank finds ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and so on in its environment.

    More than one node or process needs ``distributed_backend`` (``"gloo"`` or ``"nccl"``; ``"mpi"`` for Horovod). Without an
    environment of its own, the ranks get one with ``torch`` (``framework_version`` says which). With ``elastic=(min, max)``
    torchrun starts the ranks, and the loss of nodes is survived down to ``min``. The parameters are those of
    :class:`JobOperator`.
    """

    framework = "pytorch"
    ui_color = "#fde5d8"
