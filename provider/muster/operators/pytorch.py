"""PyTorchTrainOperator: training with PyTorch's launcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from muster.operators.train import TrainOperator


class PyTorchTrainOperator(TrainOperator):
    """
    Trains with PyTorch on many nodes; sets ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and the rest for every rank.

    More than one node or process needs ``distributed_backend``: ``"gloo"``, ``"nccl"``, or ``"mpi"`` for Horovod. Without an
    explicit environment, the ranks get one with ``torch`` in ``framework_version``. The parameters are those of
    :class:`JobOperator`, and

    :param elastic: ``(min, max)`` nodes, in place of ``node_count``: torchrun starts the ranks on ``max`` nodes; when nodes are
        lost, training restarts from the newest checkpoint while ``min`` are left
    """

    framework = "pytorch"
    template_fields: Sequence[str] = (*TrainOperator.template_fields, "elastic")
    ui_color = "#fde5d8"

    def __init__(self, *, elastic: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.elastic = elastic
