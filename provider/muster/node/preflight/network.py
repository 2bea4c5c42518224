"""The training network: which networks a node is on, and the one that all nodes of a job train over."""

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
    """One IPv4 address of a node. ``network`` as ``10.1.0.0/24``, ``speed`` in Mbit/s, 0 if nobody knows it."""

    name: str
    address: str
    network: str
    kind: str = ETHERNET
    speed: int = 0


class NetworkNode(Protocol):
    """What the choice needs of a node: its address on the mesh, and all interfaces."""

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
    """Where all nodes train: address and interface of each, by node. ``networks`` are the ranges, one for all if it can be."""

    addresses: tuple[str, ...]
    interfaces: tuple[str, ...]
    networks: tuple[str, ...]
    note: str = ""  # what to tell people, "" where there is nothing of a choice in it

    def local_bindings(self) -> list[dict[str, str]]:
        """Return what :class:`muster.core.placeholder.Here` may name of the network, by node."""
        names = set(self.interfaces)
        common = "" if len(names) > 1 or self.addresses[0].startswith(LOOPBACK_RANGE) else self.interfaces[0]
        shared = {"network": ",".join(self.networks), "common_interface": common}
        return [{"interface": name, **shared} for name in self.interfaces]


class NoNetwork(Exception):
    """A node is not on the network that was asked for."""

    def __init__(self, node: int, problem: str) -> None:
        super().__init__(problem)
        self.node = node


# -- what a node is on


def interfaces() -> tuple[Interface, ...]:
    """Give the IPv4 addresses of this node, of interfaces that are up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        found = [_interface(probe, name, address) for name, address in _addresses(probe)]
    return tuple(interface for interface in found if interface is not None)


def own_interface(address: str, having: Sequence[Interface]) -> str:
    """Give the name of the interface that owns an address; loopback for all of 127/8; "" if none does."""
    return next((interface.name for interface in having if _owns(interface, address)), "")


def _owns(interface: Interface, address: str) -> bool:
    return interface.address == address or (interface.kind == LOOPBACK and _is_loopback(address))


def _is_loopback(address: str) -> bool:
    return address.startswith(LOOPBACK_RANGE)


def _addresses(probe: socket.socket) -> list[tuple[str, str]]:
    """Ask the kernel for all addresses of this node, each with the interface's name."""
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
    if _told(device, "operstate") == "down":
        return None
    kind = _KINDS.get(_told(device, "type"), OTHER)
    return Interface(name=device, address=address, network=_range(address, answer[20:24]), kind=kind, speed=_speed(device))


def _range(address: str, mask: bytes) -> str:
    bits = int.from_bytes(mask, "big")
    first = int.from_bytes(socket.inet_aton(address), "big") & bits
    return f"{socket.inet_ntoa(first.to_bytes(4, 'big'))}/{bits.bit_count()}"


def _speed(device: str) -> int:
    told = _told(device, "speed")
    return max(int(told), 0) if told.lstrip("-").isdigit() else 0


def _told(device: str, what: str) -> str:
    try:
        return Path("/sys/class/net", device, what).read_text(encoding="ascii").strip()
    except OSError:
        return ""


# -- the one that all train over


def choose(named: str, seats: Sequence[NetworkNode]) -> Choice:
    """Give the network that all nodes train over; ``named`` is the interface that the user asks for, "" for any.

    Else InfiniBand comes before the rest, then what is known to be faster, then the network that the agents met over. A network
    counts only if every node has an address of its own on it: bridges of container engines are the same on every host.

    :raises NoNetwork: a node has no interface of the name.
    """
    ordered = sorted(seats, key=lambda seat: seat.node)
    met = [_met_over(seat) for seat in ordered]
    if named:
        return _named(named, ordered, met)
    if len(ordered) == 1:
        return _choice(met)
    shared = _shared(ordered, met)
    best = max(shared, key=lambda places: _rank(places, met), default=met)
    return _choice(best, note=_note(best, met))


def _met_over(seat: NetworkNode) -> Interface:
    """Give the interface of the mesh, with the node's own address on it."""
    for interface in seat.interfaces:
        if _owns(interface, seat.address):
            return _at(interface, seat.address)
    return Interface(name="", address=seat.address, network=f"{seat.address}/32", kind=OTHER)


def _at(interface: Interface, address: str) -> Interface:
    return Interface(
        name=interface.name, address=address, network=interface.network, kind=interface.kind, speed=interface.speed
    )


def _named(name: str, seats: Sequence[NetworkNode], met: Sequence[Interface]) -> Choice:
    places = [_place(name, seat, mesh) for seat, mesh in zip(seats, met, strict=True)]
    twin = _twin(places)
    if twin is None:
        return _choice(places)
    if len({seat.host for seat in seats}) > 1:
        first, second = twin
        problem = f"its address {places[second].address} on interface {name!r} is that of node {first} as well"
        raise NoNetwork(second, f"{problem}; name one on which every node has its own")
    # nodes that share one machine share its addresses: they keep those they met over, and use the interface
    return _choice([_at(place, mesh.address) for place, mesh in zip(places, met, strict=True)])


def _place(name: str, seat: NetworkNode, met: Interface) -> Interface:
    if met.name == name:
        return met
    for interface in seat.interfaces:
        if interface.name == name:
            return interface
    has = ", ".join(dict.fromkeys(interface.name for interface in seat.interfaces)) or "none"
    raise NoNetwork(
        seat.node, f"it has no network interface {name!r} with an IPv4 address; it has {has}; name one that every node has"
    )


def _twin(places: Sequence[Interface]) -> tuple[int, int] | None:
    """Give two nodes with the same address, None if all differ."""
    seen: dict[str, int] = {}
    for node, place in enumerate(places):
        if place.address in seen:
            return seen[place.address], node
        seen[place.address] = node
    return None


def _shared(seats: Sequence[NetworkNode], met: Sequence[Interface]) -> list[list[Interface]]:
    """Give the networks that every node is on with an address of its own; the nodes' places on each."""
    found = []
    for network in dict.fromkeys([met[0].network, *(interface.network for interface in seats[0].interfaces)]):
        places = [_on(network, seat, mesh) for seat, mesh in zip(seats, met, strict=True)]
        there = [place for place in places if place is not None]
        if len(there) == len(seats) and _twin(there) is None:
            found.append(there)
    return found


def _on(network: str, seat: NetworkNode, met: Interface) -> Interface | None:
    if met.network == network:
        return met
    return next((i for i in seat.interfaces if i.network == network and i.kind in (ETHERNET, INFINIBAND)), None)


def _rank(places: Sequence[Interface], met: Sequence[Interface]) -> tuple[bool, int, bool]:
    """Give what the better network has more of. One whose speed nobody knows is taken to be as fast as the mesh's."""
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
