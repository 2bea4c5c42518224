"""Chooses the training network: reads the networks of a node, and picks the one that all nodes of a job train over."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

SIOCGIFCONF, SIOCGIFNETMASK = 0x8912, 0x891B
IFREQ = 40  # bytes of one struct ifreq
MOST_ADDRESSES = 256
LOOPBACK_RANGE = "127."

LOOPBACK, ETHERNET, INFINIBAND, OTHER = "loopback", "ethernet", "infiniband", "other"
_KINDS = {"772": LOOPBACK, "1": ETHERNET, "32": INFINIBAND}  # ARPHRD_* of the kernel


@dataclass(frozen=True, kw_only=True)
class Interface:
    """One IPv4 address of a node. ``network`` as ``10.1.0.0/24``, ``speed`` in Mbit/s, 0 if unknown."""

    name: str
    address: str
    network: str
    kind: str = ETHERNET
    speed: int = 0


class NetworkNode(Protocol):
    """A node to choose for: its address on the mesh, and all its interfaces."""

    @property
    def node(self) -> int: ...
    @property
    def host(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def interfaces(self) -> tuple[Interface, ...]: ...


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The network of a run: address and interface of each node. ``networks`` are the ranges, one for all if possible."""

    addresses: tuple[str, ...]
    interfaces: tuple[str, ...]
    networks: tuple[str, ...]
    note: str = ""  # for people, "" where there was no choice

    def local_bindings(self) -> list[dict[str, str]]:
        """Return what :class:`muster.core.placeholder.Here` may name of the network, by node."""
        names = set(self.interfaces)
        common = "" if len(names) > 1 or self.addresses[0].startswith(LOOPBACK_RANGE) else self.interfaces[0]
        shared = {"network": ",".join(self.networks), "common_interface": common}
        return [{"interface": name, **shared} for name in self.interfaces]


class NoNetwork(Exception):
    """A node is not on the requested network."""

    def __init__(self, node: int, problem: str) -> None:
        super().__init__(problem)
        self.node = node


# -- the networks of a node


def interfaces() -> tuple[Interface, ...]:
    """Return the IPv4 addresses of this node, of interfaces that are up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        found = [_interface(probe, name, address) for name, address in _addresses(probe)]
    return tuple(interface for interface in found if interface is not None)


def own_interface(address: str, interfaces: Sequence[Interface]) -> str:
    """Return the name of the interface that owns an address; loopback for all of 127/8; "" if none does."""
    return next((interface.name for interface in interfaces if _owns(interface, address)), "")


def _owns(interface: Interface, address: str) -> bool:
    return interface.address == address or (interface.kind == LOOPBACK and _is_loopback(address))


def _is_loopback(address: str) -> bool:
    return address.startswith(LOOPBACK_RANGE)


def _addresses(probe: socket.socket) -> list[tuple[str, str]]:
    """Return all addresses of this node, each with the interface's name."""
    buffer = array.array("B", bytes(MOST_ADDRESSES * IFREQ))
    request = struct.pack("iL", len(buffer), buffer.buffer_info()[0])
    length = struct.unpack("iL", fcntl.ioctl(probe.fileno(), SIOCGIFCONF, request))[0]
    rows = [buffer[at : at + IFREQ].tobytes() for at in range(0, length, IFREQ)]
    return [(row[:16].split(b"\0")[0].decode(errors="replace"), socket.inet_ntoa(row[20:24])) for row in rows]


def _interface(probe: socket.socket, name: str, address: str) -> Interface | None:
    try:
        answer = fcntl.ioctl(probe.fileno(), SIOCGIFNETMASK, struct.pack("256s", name.encode()[:15]))
    except OSError:
        return None  # it went away just now
    device = name.partition(":")[0]
    if _attribute(device, "operstate") == "down":
        return None
    kind = _KINDS.get(_attribute(device, "type"), OTHER)
    return Interface(name=device, address=address, network=_range(address, answer[20:24]), kind=kind, speed=_speed(device))


def _range(address: str, mask: bytes) -> str:
    bits = int.from_bytes(mask, "big")
    first = int.from_bytes(socket.inet_aton(address), "big") & bits
    return f"{socket.inet_ntoa(first.to_bytes(4, 'big'))}/{bits.bit_count()}"


def _speed(device: str) -> int:
    text = _attribute(device, "speed")
    return max(int(text), 0) if text.lstrip("-").isdigit() else 0


def _attribute(device: str, name: str) -> str:
    try:
        return Path("/sys/class/net", device, name).read_text(encoding="ascii").strip()
    except OSError:
        return ""


# -- the network of all nodes


def choose(named: str, nodes: Sequence[NetworkNode]) -> Choice:
    """Return the network that all nodes train over; ``named`` is the interface that the user asks for, "" for any.

    InfiniBand comes before the rest, then what is known to be faster, then the network that the agents met over. A network
    counts only if every node has an address of its own on it: bridges of container engines are the same on every host.

    :raises NoNetwork: a node has no interface of the name.
    """
    ordered = sorted(nodes, key=lambda node: node.node)
    met = [_met_over(node) for node in ordered]
    if named:
        return _named(named, ordered, met)
    if len(ordered) == 1:
        return _choice(met)
    shared = _shared(ordered, met)
    best = max(shared, key=lambda places: _rank(places, met), default=met)
    return _choice(best, note=_note(best, met))


def _met_over(node: NetworkNode) -> Interface:
    """Return the interface of the mesh, with the node's own address on it."""
    for interface in node.interfaces:
        if _owns(interface, node.address):
            return _at(interface, node.address)
    return Interface(name="", address=node.address, network=f"{node.address}/32", kind=OTHER)


def _at(interface: Interface, address: str) -> Interface:
    return Interface(
        name=interface.name, address=address, network=interface.network, kind=interface.kind, speed=interface.speed
    )


def _named(name: str, nodes: Sequence[NetworkNode], met: Sequence[Interface]) -> Choice:
    places = [_place(name, node, mesh) for node, mesh in zip(nodes, met, strict=True)]
    twin = _twin(places)
    if twin is None:
        return _choice(places)
    if len({node.host for node in nodes}) > 1:
        first, second = twin
        problem = f"its address {places[second].address} on interface {name!r} is that of node {first} as well"
        raise NoNetwork(second, f"{problem}; name one on which every node has its own")
    # nodes that share one machine share its addresses: they keep those they met over, and use the interface
    return _choice([_at(place, mesh.address) for place, mesh in zip(places, met, strict=True)])


def _place(name: str, node: NetworkNode, met: Interface) -> Interface:
    if met.name == name:
        return met
    for interface in node.interfaces:
        if interface.name == name:
            return interface
    has = ", ".join(dict.fromkeys(interface.name for interface in node.interfaces)) or "none"
    raise NoNetwork(
        node.node, f"it has no network interface {name!r} with an IPv4 address; it has {has}; name one that every node has"
    )


def _twin(places: Sequence[Interface]) -> tuple[int, int] | None:
    """Return two nodes with the same address, None if all differ."""
    seen: dict[str, int] = {}
    for node, place in enumerate(places):
        if place.address in seen:
            return seen[place.address], node
        seen[place.address] = node
    return None


def _shared(nodes: Sequence[NetworkNode], met: Sequence[Interface]) -> list[list[Interface]]:
    """Return the networks that every node is on with an address of its own; on each the nodes' interfaces."""
    found = []
    for network in dict.fromkeys([met[0].network, *(interface.network for interface in nodes[0].interfaces)]):
        places = [_on(network, node, mesh) for node, mesh in zip(nodes, met, strict=True)]
        there = [place for place in places if place is not None]
        if len(there) == len(nodes) and _twin(there) is None:
            found.append(there)
    return found


def _on(network: str, node: NetworkNode, met: Interface) -> Interface | None:
    if met.network == network:
        return met
    return next((i for i in node.interfaces if i.network == network and i.kind in (ETHERNET, INFINIBAND)), None)


def _rank(places: Sequence[Interface], met: Sequence[Interface]) -> tuple[bool, int, bool]:
    """Return a sort key for networks; a network of unknown speed counts as fast as the mesh's."""
    infiniband = all(place.kind == INFINIBAND for place in places)
    is_mesh = places[0].network == met[0].network
    usual = _slowest(met)
    speed = (_slowest(places) or usual) if usual else 0
    return infiniband, speed, is_mesh


def _slowest(places: Sequence[Interface]) -> int:
    return min(place.speed for place in places)


def _choice(places: Sequence[Interface], note: str = "") -> Choice:
    return Choice(
        addresses=tuple(place.address for place in places),
        interfaces=tuple(place.name for place in places),
        networks=tuple(dict.fromkeys(place.network for place in places)),
        note=note,
    )


def _note(best: Sequence[Interface], met: Sequence[Interface]) -> str:
    if list(best) == list(met):
        return ""
    speed = f", {_slowest(best) / 1000:g} Gbit/s" if _slowest(best) else ""
    names = "/".join(dict.fromkeys(place.name for place in best))
    return f"training over {best[0].network} ({names}, {best[0].kind}{speed}); the agents met over {met[0].network}"
