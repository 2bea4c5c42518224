"""MpiConfiguration, TensorflowConfiguration, PyTorchConfiguration: the object form of ``distributed_training``.

Values only: they survive Airflow's serialization (``serialize``, ``deserialize`` and ``__version__`` are its convention), and
a plain dictionary with their name as ``type`` is equivalent. Their values are checked when the job is made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from muster.core.errors import RequestError

C = TypeVar("C", bound="Configuration")


class Configuration:
    """Base of the three: Airflow's serialization convention, without Airflow."""

    __version__: ClassVar[int] = 1

    def serialize(self) -> dict[str, Any]:
        """Return plain data; ``type`` names the class."""
        return {"type": type(self).__name__, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}}  # type: ignore[arg-type]

    @classmethod
    def deserialize(cls: type[C], data: Mapping[str, Any], version: int = 1) -> C:
        """Build the value of its plain data.

        :raises ValueError: another class's data, of a newer version, or with unknown fields.
        """
        fields = {name: value for name, value in data.items() if name != "type"}
        if version > cls.__version__ or data.get("type", cls.__name__) != cls.__name__:
            raise ValueError(f"{cls.__name__} can't read version {version} of {data.get('type', cls.__name__)}")
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"{cls.__name__}: {error}") from error


@dataclass(frozen=True)
class MpiConfiguration(Configuration):
    """MPI, by its number of processes on each node."""

    process_count_per_node: int = 1
    node_count: int = 1


@dataclass(frozen=True)
class TensorflowConfiguration(Configuration):
    """TensorFlow's workers and parameter servers."""

    worker_count: int = 1
    parameter_server_count: int = 1


@dataclass(frozen=True)
class PyTorchConfiguration(Configuration):
    """PyTorch; ``process_count`` is the number over all nodes, ``node_count`` if it is None, and a multiple of that."""

    communication_backend: str = "Nccl"
    process_count: int | None = None
    node_count: int = 1


KINDS: Mapping[str, type[Configuration]] = MappingProxyType(
    {kind.__name__: kind for kind in (MpiConfiguration, TensorflowConfiguration, PyTorchConfiguration)}
)


def read_configuration(name: str, value: Any) -> Configuration:
    """Return the configuration that a parameter holds, as an object or as plain data.

    :raises RequestError: it is of another type.
    """
    if isinstance(value, Configuration) and type(value).__name__ in KINDS:
        return value
    if isinstance(value, Mapping) and value.get("type") in KINDS:
        try:
            return KINDS[value["type"]].deserialize(value)
        except ValueError as error:
            raise RequestError(f"{name}: {error}") from error
    raise RequestError(f"{name} must be one of {', '.join(KINDS)}, got {value!r} of type {type(value).__name__}")
