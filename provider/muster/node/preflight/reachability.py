"""Tries the connection between every pair of nodes over the training network, before the ranks are started."""

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
    """Address of a node on the training network, and the ports that listen there during preflight."""

    node: int
    address: str
    ports: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Blocked:
    """A connection that failed: from node ``source`` to a port of ``node``, and why in a few words."""

    source: int
    node: int
    address: str
    port: int
    why: str


class ProbeListener:
    """Listens on ports of this node for others to try, until its ranks need them."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def open(self, address: str, ports: Iterable[int]) -> tuple[int, ...]:
        """Listen on ports, 0 for any free one; return those that could be opened."""
        opened = []
        for port in ports:
            with contextlib.suppress(OSError):
                opened.append(self._open(address, port))
        return tuple(opened)

    def _open(self, address: str, port: int) -> int:
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address, port))
            server.listen(_BACKLOG)
            server.setblocking(False)
        except OSError:
            server.close()
            raise
        self._sockets.append(server)
        asyncio.get_running_loop().add_reader(server.fileno(), _accept_and_close, server)
        return int(server.getsockname()[1])

    def close(self) -> None:
        """Close all; the ports are free at once."""
        for server in self._sockets:
            asyncio.get_running_loop().remove_reader(server.fileno())
            server.close()
        self._sockets = []


def _accept_and_close(server: socket.socket) -> None:
    """Accept all clients and close; the connection is all that they test."""
    with contextlib.suppress(OSError):
        while True:
            client, _ = server.accept()
            client.close()


def try_endpoints(source: int, endpoints: Sequence[Endpoint], limit: float = LIMIT) -> tuple[Blocked, ...]:
    """Try every endpoint from this node, many at a time; return those not reached, one port for each node."""
    calls = [(endpoint, port) for endpoint in _from_next(source, endpoints) for port in endpoint.ports]
    failed: dict[int, Blocked] = {}
    for first in range(0, len(calls), AT_ONCE):
        for (to, port), code in _connect_all(calls[first : first + AT_ONCE], limit):
            why = _WORDS.get(code) or os.strerror(code).lower()
            failed.setdefault(to.node, Blocked(source=source, node=to.node, address=to.address, port=port, why=why))
    return tuple(failed.values())


def _from_next(source: int, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """Start with the node after this one, so that not all connect to the same node first."""
    others = [endpoint for endpoint in endpoints if endpoint.node != source]
    return sorted(others, key=lambda endpoint: (endpoint.node < source, endpoint.node))


def _connect_all(calls: Sequence[tuple[Endpoint, int]], limit: float) -> list[tuple[tuple[Endpoint, int], int]]:
    """Connect to all at once; return those that failed, each with the system's error number."""
    failed = []
    deadline = time.monotonic() + limit
    with selectors.DefaultSelector() as selector:
        for call in calls:
            code = _start(call, selector)
            if code:
                failed.append((call, code))
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
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


def _start(call: tuple[Endpoint, int], selector: selectors.BaseSelector) -> int:
    endpoint, port = call
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    client.setblocking(False)
    code = client.connect_ex((endpoint.address, port))
    if code == errno.EINPROGRESS:
        selector.register(client, selectors.EVENT_WRITE, call)
        return 0
    client.close()
    return code


def _finish(client: socket.socket) -> int:
    with client:
        code = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return code
