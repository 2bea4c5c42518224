"""TensorFlowTrainOperator: training with TensorFlow's launcher, or with Horovod under MPI."""

from __future__ import annotations

from muster.operators.train import TrainOperator


class TensorFlowTrainOperator(TrainOperator):
    """
    Trains with TensorFlow on many nodes: every task finds the others in ``TF_CONFIG``.

    ``distributed_backend`` says how: ``"nccl"`` for workers alone (MultiWorkerMirroredStrategy), ``"ps"`` for workers and
    parameter servers, ``"mpi"`` for Horovod. ``worker_count``, ``parameter_server_count``, ``chief`` and ``evaluator`` say
    which tasks there are; several of them share a node. The run is over when chief and workers are; with servers and a
    chief, whose workers only serve it, when the chief is. Without an environment of its own, a task gets one with TensorFlow
    for CPUs, with ``use_gpu`` for GPUs (``framework_version`` says which). The parameters are those of :class:`JobOperator`.
    """

    framework = "tensorflow"
    ui_color = "#fdeacc"
