"""Reach: every pair of nodes tried over the training network before the ranks are started."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import selectors
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LIMIT = 4.0  # seconds for a connection; the kernel repeats a lost packet after 1 s and 3 s
AT_ONCE = 200  # connections of one node that are tried at a time; few systems allow less than 1024 open files
_BACKLOG = 4096
_RESET = struct.pack("ii", 1, 0)  # closed without a trace, so that the port is free at once for a rank
NO_ANSWER = "no answer"
_WORDS = {
    errno.ETIMEDOUT: NO_ANSWER,
    errno.ECONNREFUSED: "refused, though somebody listens there",
    errno.EHOSTUNREACH: "no route to it",
    errno.ENETUNREACH: "no route to its network",
    errno.EPERM: "forbidden by a firewall of its own",
    errno.EACCES: "forbidden by a firewall of its own",
}


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a node can be tried: its address on the training network and the ports that are open there meanwhile."""

    node: int
    address: str
    ports: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Blocked:
    """Node ``source`` could not reach a port of ``node``, and why in a few words."""

    source: int
    node: int
    address: str
    port: int
    why: str


class ProbeListener:
    """Ports of this node that are held open for others to try, until its ranks need them."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def open(self, address: str, ports: Iterable[int]) -> tuple[int, ...]:
        """Listen on ports, 0 for any free one; gives those that could be opened."""
        opened = []
        for port in ports:
            with contextlib.suppress(OSError):
                opened.append(self._open(address, port))
        return tuple(opened)

    def _open(self, address: str, port: int) -> int:
        door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind((address, port))
            door.listen(_BACKLOG)
            door.setblocking(False)
        except OSError:
            door.close()
            raise
        self._sockets.append(door)
        asyncio.get_running_loop().add_reader(door.fileno(), _let_go, door)
        return int(door.getsockname()[1])

    def close(self) -> None:
        """Close all; the ports are free at once."""
        for door in self._sockets:
            asyncio.get_running_loop().remove_reader(door.fileno())
            door.close()
        self._sockets = []


def _let_go(door: socket.socket) -> None:
    """Take whoever waits and let them go; that they came this far is all they want to know."""
    with contextlib.suppress(OSError):
        while True:
            caller, _ = door.accept()
            caller.close()


def tried(source: int, doors: Sequence[Endpoint], limit: float = LIMIT) -> list[Blocked]:
    """Try every door from this node, many at a time; gives those not reached, one port for each node."""
    calls = [(door, port) for door in _from_next(source, doors) for port in door.ports]
    failed: dict[int, Blocked] = {}
    for first in range(0, len(calls), AT_ONCE):
        for (door, port), code in _connect_all(calls[first : first + AT_ONCE], limit):
            why = _WORDS.get(code) or os.strerror(code).lower()
            failed.setdefault(door.node, Blocked(source=source, node=door.node, address=door.address, port=port, why=why))
    return list(failed.values())


def _from_next(source: int, doors: Sequence[Endpoint]) -> list[Endpoint]:
    """Begin with the node after this one, so that not all knock at the same door first."""
    others = [door for door in doors if door.node != source]
    return sorted(others, key=lambda door: (door.node < source, door.node))


def _connect_all(calls: Sequence[tuple[Endpoint, int]], limit: float) -> list[tuple[tuple[Endpoint, int], int]]:
    """Connect to all at once; gives those that failed, each with the system's error number."""
    failed = []
    give_up = time.monotonic() + limit
    with selectors.DefaultSelector() as selector:
        for call in calls:
            code = _begin(call, selector)
            if code:
                failed.append((call, code))
        while selector.get_map() and (left := give_up - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                assert isinstance(key.fileobj, socket.socket)
                selector.unregister(key.fileobj)
                code = _finish(key.fileobj)
                if code:
                    failed.append((key.data, code))
        for key in list(selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
            failed.append((key.data, errno.ETIMEDOUT))
    return failed


def _begin(call: tuple[Endpoint, int], selector: selectors.BaseSelector) -> int:
    door, port = call
    caller = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    caller.setblocking(False)
    code = caller.connect_ex((door.address, port))
    if code == errno.EINPROGRESS:
        selector.register(caller, selectors.EVENT_WRITE, call)
        return 0
    caller.close()
    return code


def _finish(caller: socket.socket) -> int:
    with caller:
        code = caller.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return code
