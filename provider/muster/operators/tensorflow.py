"""TensorFlowTrainOperator: training with TensorFlow's launcher, or with Horovod under MPI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from muster.operators.train import TrainOperator


class TensorFlowTrainOperator(TrainOperator):
    """
    Trains with TensorFlow on many nodes; sets ``TF_CONFIG`` for every task.

    ``distributed_backend`` is ``"nccl"`` for workers alone (MultiWorkerMirroredStrategy), ``"ps"`` for workers and parameter
    servers, ``"mpi"`` for Horovod. Several tasks may share a node. The run ends when chief and workers have ended; with servers
    and a chief, whose workers only serve the chief, when the chief has ended. Without an explicit environment, a task gets one
    with TensorFlow in ``framework_version``, for GPUs with ``use_gpu``. The parameters are those of :class:`JobOperator`, and

    :param worker_count: number of workers; at most one for each process of each node
    :param parameter_server_count: number of parameter servers; 0 for none
    :param chief: add a chief; without one, worker 0 acts as chief
    :param evaluator: add an evaluator beside the workers
    """

    framework = "tensorflow"
    template_fields: Sequence[str] = (
        *TrainOperator.template_fields,
        "worker_count",
        "parameter_server_count",
        "chief",
        "evaluator",
    )
    ui_color = "#fdeacc"

    def __init__(
        self,
        *,
        worker_count: int | str | None = None,
        parameter_server_count: int | str | None = None,
        chief: bool | str = False,
        evaluator: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.worker_count = worker_count
        self.parameter_server_count = parameter_server_count
        self.chief = chief
        self.evaluator = evaluator
