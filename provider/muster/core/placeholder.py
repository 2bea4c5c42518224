"""Placeholders (host, port, interpreter) in a plan, resolved on the node.

A text is a plain string, which is never parsed, or a tuple of parts. So no text of a user can be mistaken for a placeholder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union


@dataclass(frozen=True, kw_only=True)
class HostOf:
    """The address of a node, by its index."""

    host_of: int


@dataclass(frozen=True, kw_only=True)
class PortOf:
    """A port that a node was asked to find free, by the node's index and the port's name."""

    port_of: int
    port: str


@dataclass(frozen=True, kw_only=True)
class Here:
    """A value of this node: ``interpreter``, ``workdir``, ``attempt`` (the job's name with generation and attempt),
    ``node`` (its number) and ``scratch`` (a folder of its own where several nodes share a machine, else empty); of the training
    network, which is chosen once for all nodes, ``interface`` (its name on this node), ``common_interface`` (the same, but
    empty where the names differ or it is loopback) and ``network`` (its address range, such as ``10.1.0.0/24``); of an elastic
    run, ``nodes`` (how many there are) and ``round`` (how often ranks have been started); or of this rank: ``local_rank``.
    """

    here: str


Part = Union[str, HostOf, PortOf, Here]
Text = Union[str, tuple[Part, ...]]


@dataclass(frozen=True, kw_only=True)
class Bindings:
    """Values of the placeholders on one node: hosts by node, ports by node and name, facts of the node itself."""

    hosts: tuple[str, ...]
    ports: tuple[dict[str, int], ...]
    local: dict[str, str]


def resolve(text: Text, bindings: Bindings) -> str:
    """Replace the placeholders of a text by their values on this node."""
    if isinstance(text, str):
        return text
    return "".join(_resolve_part(part, bindings) for part in text)


def _resolve_part(part: Part, bindings: Bindings) -> str:
    if isinstance(part, HostOf):
        return bindings.hosts[part.host_of]
    if isinstance(part, PortOf):
        return str(bindings.ports[part.port_of][part.port])
    if isinstance(part, Here):
        return bindings.local[part.here]
    return part
