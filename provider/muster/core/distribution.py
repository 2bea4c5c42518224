"""Distribution: how many nodes and processes a request asks for, and how they talk, from counts or from the object form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from muster.core import coerce, configurations
from muster.core.configurations import PyTorchConfiguration
from muster.core.errors import RequestError
from muster.core.frameworks import BACKENDS, LATER_BACKENDS, Framework

COUNTS = ("node_count", "process_count_per_node")


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Counts from 1 on. ``backend`` is lower case, None where one process needs none."""

    node_count: int
    process_count_per_node: int
    backend: str | None


def distribution(given: Mapping[str, Any], framework: Framework) -> Distribution:
    """Give what ``node_count``, ``process_count_per_node``, ``distributed_backend`` or ``distributed_training`` ask for.

    :raises RequestError: a count, the backend or the configuration is wrong, or they contradict each other.
    """
    if "distributed_training" in given:
        given = _spelled_out(given, framework)
    nodes, processes = (coerce.whole(name, given.get(name, 1), least=1) for name in COUNTS)
    backend = _backend(given.get("distributed_backend"), framework)
    if backend is None and framework.needs_backend and nodes * processes > 1:
        raise RequestError(
            f"distributed_backend is None with node_count {nodes} and process_count_per_node {processes}; "
            f"set it to {' or '.join(BACKENDS)}"
        )
    return Distribution(node_count=nodes, process_count_per_node=processes, backend=backend)


def _backend(value: Any, framework: Framework) -> str | None:
    if value is None or value == "":
        return None
    backend = coerce.text("distributed_backend", value).lower()
    if backend in LATER_BACKENDS:
        choice = " or ".join(BACKENDS)
        raise RequestError(f"distributed_backend {value!r} is not offered yet for framework {framework.name!r}, use {choice}")
    if backend not in BACKENDS:
        raise RequestError(f"distributed_backend {value!r} is unknown, use {' or '.join(BACKENDS)}")
    return backend


def _spelled_out(given: Mapping[str, Any], framework: Framework) -> dict[str, Any]:
    """Give the parameters with the object form replaced by what it says."""
    configuration = configurations.read("distributed_training", given["distributed_training"])
    kind = type(configuration).__name__
    if not isinstance(configuration, PyTorchConfiguration):
        raise RequestError(f"{kind} is not offered in this release; use {PyTorchConfiguration.__name__}, or framework 'any'")
    if not framework.needs_backend:
        raise RequestError(f"{kind} does not go with framework {framework.name!r}; set node_count and process_count_per_node")
    said = _counts(configuration)
    for name, value in said.items():
        _refuse_contradiction(kind, name, given.get(name), value)
    return {**given, **said}


def _counts(configuration: PyTorchConfiguration) -> dict[str, Any]:
    nodes = coerce.whole("PyTorchConfiguration.node_count", configuration.node_count, least=1)
    wanted = configuration.process_count
    processes = nodes if wanted is None else coerce.whole("PyTorchConfiguration.process_count", wanted, least=1)
    if processes % nodes:
        raise RequestError(
            f"PyTorchConfiguration.process_count {processes} is no multiple of node_count {nodes}; it counts the processes of "
            f"all nodes: give {nodes} times the processes of one node"
        )
    backend = configuration.communication_backend
    return {"node_count": nodes, "process_count_per_node": processes // nodes, "distributed_backend": backend}


def _refuse_contradiction(kind: str, name: str, given: Any, said: Any) -> None:
    # 1 is what operators pass when nobody has said anything
    if given is None or str(given).lower() in ("1", "", str(said).lower()):
        return
    raise RequestError(f"{name} is {given!r}, but {kind} says {said!r}; give one of them")
