"""``elastic=(min, max)``: bounds of a job that survives lost nodes, and their effect on its counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from muster.core.errors import RequestError
from muster.request import coerce
from muster.request.frameworks import Framework

EXAMPLE = "give for example (2, 4): at most 4 nodes, and the run goes on while 2 are left"


def expand_elastic(given: Mapping[str, Any], framework: Framework) -> tuple[dict[str, Any], int]:
    """Return the parameters with ``node_count`` set to the max of ``elastic``, and its min; 0 without ``elastic``.

    :raises RequestError: the bounds are wrong, don't go with the framework, or contradict ``node_count``.
    """
    if given.get("elastic") in (None, "", (), []):
        return dict(given), 0
    least, most = _bounds(given["elastic"])
    if not framework.elastic:
        raise RequestError(
            f"elastic is {given['elastic']!r}, but framework {framework.name!r} can't go on without a node; "
            "only pytorch can: leave elastic out, and retries resume the run from its last checkpoint"
        )
    # 1 is the operators' default
    if str(given.get("node_count", 1)).strip() not in ("1", str(most)):
        raise RequestError(
            f"node_count is {given['node_count']!r}, but elastic allows at most {most} nodes; leave node_count out"
        )
    return {**given, "node_count": most}, least


def check_backend(backend: str | None) -> None:
    """Refuse a backend under which the loss of a node ends the whole job.

    :raises RequestError: it is MPI.
    """
    if backend == "mpi":
        raise RequestError("distributed_backend 'mpi' can't be elastic: mpirun ends all ranks with the first; use gloo or nccl")


def _bounds(value: Any) -> tuple[int, int]:
    """Read (min, max); a text such as ``"2:4"``, which templates and torchrun write, is equivalent."""
    pair = [part.strip() for part in value.strip("()[] ").replace(",", ":").split(":")] if isinstance(value, str) else value
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise RequestError(f"elastic must be (min, max), got {value!r}; {EXAMPLE}")
    least, most = (coerce.whole(f"elastic's {name}", part, least=1) for name, part in zip(("min", "max"), pair, strict=True))
    if least > most:
        raise RequestError(f"elastic is {value!r}, its min is more than its max; {EXAMPLE}")
    return least, most
