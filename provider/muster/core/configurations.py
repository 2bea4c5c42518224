"""The object form of distributed training, as users of the older service know it; plain values that survive serialization."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

CONFIGURATION_VERSION = 1


class Serializable:
    """Lets Airflow carry a value object through DAG serialization and ``.expand()``."""

    __version__: ClassVar[int] = CONFIGURATION_VERSION

    def serialize(self) -> dict[str, Any]:
        """Give plain data."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    @classmethod
    def deserialize(cls, data: dict[str, Any], version: int) -> Any:
        """Build the value of plain data."""
        return cls(**data)


@dataclass(frozen=True)
class MpiConfiguration(Serializable):
    """Open MPI or Horovod."""

    process_count_per_node: int = 1
    node_count: int = 1


@dataclass(frozen=True)
class TensorflowConfiguration(Serializable):
    """Workers and parameter servers."""

    worker_count: int = 1
    parameter_server_count: int = 1


@dataclass(frozen=True)
class PyTorchConfiguration(Serializable):
    """``process_count`` over all nodes; defaults to one for each node."""

    communication_backend: str = "Nccl"
    process_count: int | None = None
    node_count: int = 1


CONFIGURATIONS = {kind.__name__: kind for kind in (MpiConfiguration, TensorflowConfiguration, PyTorchConfiguration)}
