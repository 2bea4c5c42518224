"""Distribution: nodes, processes and communication backend of a request, from counts or from the object form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from muster.core.errors import RequestError
from muster.core.job import Roles
from muster.request import coerce, configurations, elastic
from muster.request.configurations import Configuration, MpiConfiguration, PyTorchConfiguration, TensorflowConfiguration
from muster.request.frameworks import Framework
from muster.request.roles import MPI, SERVERS, roles

COUNTS = ("node_count", "process_count_per_node")


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Counts from 1 on; ``min_node_count`` is 0 where the loss of a node ends the run. ``backend`` is lower case, None where
    one process needs none.
    """

    node_count: int
    min_node_count: int
    process_count_per_node: int
    backend: str | None
    roles: Roles
    mpi_arguments: tuple[str, ...]


def distribution(given: Mapping[str, Any], framework: Framework) -> Distribution:
    """Return the distribution that counts, ``distributed_backend``, roles or ``distributed_training`` describe.

    :raises RequestError: a count, the backend or the configuration is wrong, or they contradict each other.
    """
    if "distributed_training" in given:
        given = _spelled_out(given, framework)
    given, least = elastic.expand_elastic(given, framework)
    nodes, processes = (coerce.whole(name, given.get(name, 1), least=1) for name in COUNTS)
    backend = _backend(given.get("distributed_backend"), framework)
    if backend is None and framework.needs_backend and nodes * processes > 1:
        raise RequestError(
            f"distributed_backend is None with node_count {nodes} and process_count_per_node {processes}; "
            f"set it to {_choice(framework)}"
        )
    if least:
        elastic.check_backend(backend)
    return Distribution(
        node_count=nodes,
        min_node_count=least,
        process_count_per_node=processes,
        backend=backend,
        roles=roles(given, framework, backend, nodes=nodes, processes=processes),
        mpi_arguments=_mpi_arguments(given, backend),
    )


def _backend(value: Any, framework: Framework) -> str | None:
    if value is None or value == "":
        return framework.only_backend
    backend = coerce.text("distributed_backend", value).lower()
    if backend not in framework.backends:
        raise RequestError(
            f"distributed_backend {value!r} is not one of framework {framework.name!r}, use {_choice(framework)}"
        )
    return backend


def _choice(framework: Framework) -> str:
    *others, last = framework.backends
    return f"{', '.join(others)} or {last}" if others else last


def _mpi_arguments(given: Mapping[str, Any], backend: str | None) -> tuple[str, ...]:
    arguments = coerce.texts("mpi_arguments", given.get("mpi_arguments", ()))
    if arguments and backend != MPI:
        raise RequestError(
            f"mpi_arguments are for mpirun, but distributed_backend is {backend!r}; set it to {MPI!r}, or leave them out"
        )
    return arguments


def _spelled_out(given: Mapping[str, Any], framework: Framework) -> dict[str, Any]:
    """Return the parameters with the object form replaced by its fields."""
    configuration = configurations.read_configuration("distributed_training", given["distributed_training"])
    kind = type(configuration).__name__
    if not _fits(configuration, framework):
        raise RequestError(f"{kind} does not go with framework {framework.name!r}; set node_count and process_count_per_node")
    implied = _parameters_of(configuration)
    for name, value in implied.items():
        _refuse_contradiction(kind, name, given.get(name), value)
    return {**given, **implied}


def _fits(configuration: Configuration, framework: Framework) -> bool:
    if isinstance(configuration, TensorflowConfiguration):
        return framework.roles
    if isinstance(configuration, PyTorchConfiguration):
        return framework.needs_backend and not framework.roles
    return MPI in framework.backends


def _parameters_of(configuration: Configuration) -> dict[str, Any]:
    """Return the parameters that an object form stands for."""
    if isinstance(configuration, TensorflowConfiguration):
        counts = ("worker_count", "parameter_server_count")
        return {**{name: getattr(configuration, name) for name in counts}, "distributed_backend": SERVERS}
    if isinstance(configuration, PyTorchConfiguration):
        return _pytorch_parameters_of(configuration)
    assert isinstance(configuration, MpiConfiguration)
    return {**{name: getattr(configuration, name) for name in COUNTS}, "distributed_backend": MPI}


def _pytorch_parameters_of(configuration: PyTorchConfiguration) -> dict[str, Any]:
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


def _refuse_contradiction(kind: str, name: str, given: Any, implied: Any) -> None:
    # 1 is the operators' default for these counts
    defaults = ("", "1") if name in COUNTS else ("",)
    if given is None or str(given).lower() in (*defaults, str(implied).lower()):
        return
    raise RequestError(f"{name} is {given!r}, but {kind} implies {implied!r}; give one of them")
