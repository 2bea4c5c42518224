"""Roles: the workers, servers, chief and evaluator that a request asks for, and whether the nodes have room for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from muster.core.errors import RequestError
from muster.core.job import Roles
from muster.request import coerce
from muster.request.frameworks import Framework

SERVERS = "ps"
MPI = "mpi"
COUNTS = ("worker_count", "parameter_server_count")
FLAGS = ("chief", "evaluator")


def roles(given: Mapping[str, Any], framework: Framework, backend: str | None, *, nodes: int, processes: int) -> Roles:
    """Return the tasks of each kind. ``processes`` on each of ``nodes`` are its slots: every worker, the chief included, takes
    one, and so does every server; a worker and a server may share a slot, and the evaluator takes none.

    :raises RequestError: there are no roles here, or they don't fit.
    """
    specified = [name for name in COUNTS if name in given] + [
        name for name in FLAGS if coerce.flag(name, given.get(name, False))
    ]
    if not framework.roles or backend == MPI:
        _refuse_roles(specified, framework, backend)
        return Roles()
    if backend is None:
        _refuse_without_backend(specified, framework)
        return Roles(workers=1)
    wanted = _wanted(given, backend, chief="chief" in specified, evaluator="evaluator" in specified, slots=nodes * processes)
    _check_room(wanted, nodes, processes)
    return wanted


def _refuse_roles(specified: list[str], framework: Framework, backend: str | None) -> None:
    if specified:
        what = f"distributed_backend {backend!r}" if framework.roles else f"framework {framework.name!r}"
        raise RequestError(f"{what} has no roles, got {', '.join(specified)}; use node_count and process_count_per_node")


def _refuse_without_backend(specified: list[str], framework: Framework) -> None:
    if specified:
        choice = " or ".join(name for name in framework.backends if name != MPI)
        raise RequestError(f"{', '.join(specified)} given, but distributed_backend is None; set it to {choice}")


def _wanted(given: Mapping[str, Any], backend: str, *, chief: bool, evaluator: bool, slots: int) -> Roles:
    with_servers = backend == SERVERS
    defaults = (1, 1) if with_servers else (slots - chief, 0)
    least = (0 if chief else 1, 0)
    counts = zip(COUNTS, defaults, least, strict=True)
    workers, servers = (coerce.whole(name, given.get(name, default), least=low) for name, default, low in counts)
    if servers and not with_servers:
        raise RequestError(
            f"parameter_server_count is {servers}, but distributed_backend {backend!r} has no servers; use {SERVERS!r}"
        )
    return Roles(workers=workers, servers=servers, chief=chief, evaluator=evaluator)


def _check_room(wanted: Roles, nodes: int, processes: int) -> None:
    slots, tasks = nodes * processes, wanted.workers + wanted.chief
    have = f"node_count {nodes} x process_count_per_node {processes} give {slots} slot{'s' if slots > 1 else ''}"
    named = f"{tasks} workers{', one of them the chief,' if wanted.chief else ''}"
    for count, what in ((tasks, named), (wanted.servers, f"{wanted.servers} parameter servers")):
        if count > slots:
            raise RequestError(f"{what} don't fit: {have} for them; raise one of the two, or ask for at most {slots}")
    idle = nodes - (tasks + wanted.servers + wanted.evaluator)
    if idle > 0:
        raise RequestError(
            f"node_count is {nodes}, but there are only {nodes - idle} tasks ({wanted.workers} worker_count, "
            f"{wanted.servers} parameter_server_count): {idle} of the nodes would have nothing to do; set worker_count"
        )
