"""Muster the ranks: an Apache Airflow provider that trains models on many nodes."""

# This file travels to the nodes, so importing it imports nothing: each public name is imported when it is first used.

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from muster.client import SubmittedRun, run, submit
    from muster.core.errors import (
        EnvironmentUnsolvable,
        MusterError,
        RequestError,
        StaleGeneration,
        StoreError,
        StoreUnusable,
        TargetError,
        UnknownRun,
    )
    from muster.core.state import RunState
    from muster.core.verdict import Cause, Verdict
    from muster.hooks.compute import ComputeHook
    from muster.hooks.mlflow import MlflowHook
    from muster.hooks.store import RunStoreHook
    from muster.operators.build_image import BuildTrainingImageOperator
    from muster.operators.mpi import DistributedMPIOperator
    from muster.operators.pytorch import PyTorchTrainOperator
    from muster.operators.register import RegisterModelOperator
    from muster.operators.tensorflow import TensorFlowTrainOperator
    from muster.operators.train import TrainOperator
    from muster.request.configurations import MpiConfiguration, PyTorchConfiguration, TensorflowConfiguration
    from muster.runner import Outcome
    from muster.tracking import Run

_EXPORTS = {
    "BuildTrainingImageOperator": "muster.operators.build_image",
    "Cause": "muster.core.verdict",
    "ComputeHook": "muster.hooks.compute",
    "DistributedMPIOperator": "muster.operators.mpi",
    "EnvironmentUnsolvable": "muster.core.errors",
    "MlflowHook": "muster.hooks.mlflow",
    "MpiConfiguration": "muster.request.configurations",
    "MusterError": "muster.core.errors",
    "Outcome": "muster.runner",
    "PyTorchConfiguration": "muster.request.configurations",
    "PyTorchTrainOperator": "muster.operators.pytorch",
    "RegisterModelOperator": "muster.operators.register",
    "RequestError": "muster.core.errors",
    "Run": "muster.tracking",
    "RunState": "muster.core.state",
    "RunStoreHook": "muster.hooks.store",
    "StaleGeneration": "muster.core.errors",
    "StoreError": "muster.core.errors",
    "StoreUnusable": "muster.core.errors",
    "SubmittedRun": "muster.client",
    "TargetError": "muster.core.errors",
    "TensorFlowTrainOperator": "muster.operators.tensorflow",
    "TensorflowConfiguration": "muster.request.configurations",
    "TrainOperator": "muster.operators.train",
    "UnknownRun": "muster.core.errors",
    "Verdict": "muster.core.verdict",
    "run": "muster.client",
    "submit": "muster.client",
}

__all__ = [
    "BuildTrainingImageOperator",
    "Cause",
    "ComputeHook",
    "DistributedMPIOperator",
    "EnvironmentUnsolvable",
    "MlflowHook",
    "MpiConfiguration",
    "MusterError",
    "Outcome",
    "PyTorchConfiguration",
    "PyTorchTrainOperator",
    "RegisterModelOperator",
    "RequestError",
    "Run",
    "RunState",
    "RunStoreHook",
    "StaleGeneration",
    "StoreError",
    "StoreUnusable",
    "SubmittedRun",
    "TargetError",
    "TensorFlowTrainOperator",
    "TensorflowConfiguration",
    "TrainOperator",
    "UnknownRun",
    "Verdict",
    "__version__",
    "run",
    "submit",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)
