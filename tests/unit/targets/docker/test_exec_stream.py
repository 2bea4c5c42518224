"""What an engine streams to us over each kind of connection: read whole, ended by another thread, watched over."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import paramiko
import pytest

from muster.targets.docker.exec_stream import HEADER, KEEP_ALIVE, ExecStream

LIMIT = 60.0


class Anyone(paramiko.ServerInterface):
    """An SSH server that lets everybody in."""

    def check_auth_none(self, username: str) -> int:
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    return ours, theirs


@pytest.fixture(params=["unix", "tcp", "ssh"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any, socket.socket]]:
    """Yield what the SDK would, the engine's end of it, and the socket below."""
    if request.param != "ssh":
        ours, theirs = socket.socketpair() if request.param == "unix" else tcp_pair()
        with ours, theirs:
            yield ours.makefile("rb", buffering=0), theirs, ours
        return
    below, other = tcp_pair()
    server, client = paramiko.Transport(other), paramiko.Transport(below)
    try:
        server.add_server_key(paramiko.RSAKey.generate(2048))
        server.start_server(threading.Event(), Anyone())
        client.start_client(timeout=LIMIT)
        client.auth_none("anyone")
        opened = client.open_session(timeout=LIMIT)
        yield opened, server.accept(LIMIT), below
    finally:
        client.close()
        server.close()


def frame(output: int, data: bytes) -> bytes:
    return HEADER.pack(output, len(data)) + data


def test_frames_come_whole_until_the_end(pair: tuple[Any, Any, socket.socket]) -> None:
    opened, theirs, _ = pair
    stream = ExecStream(opened)
    theirs.sendall(frame(1, b"line 1\n") + frame(2, b"oh"))
    theirs.sendall(frame(1, b"half a frame")[:-3])
    theirs.close()
    assert list(stream.frames()) == [(1, b"line 1\n"), (2, b"oh"), (1, b"")]
    stream.close()


def test_another_thread_ends_it(pair: tuple[Any, Any, socket.socket]) -> None:
    opened, theirs, _ = pair
    stream, got = ExecStream(opened), threading.Event()

    def read() -> None:
        for _ in stream.frames():
            got.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    theirs.sendall(frame(1, b"line 1\n"))
    assert got.wait(LIMIT)
    stream.end()
    reader.join(LIMIT)
    assert not reader.is_alive()
    stream.close()


def test_a_machine_that_vanishes_is_noticed(pair: tuple[Any, Any, socket.socket]) -> None:
    opened, _, below = pair
    ExecStream(opened)
    if below.family == socket.AF_UNIX:
        return
    assert below.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert {option: below.getsockopt(socket.IPPROTO_TCP, option) for option in KEEP_ALIVE} == KEEP_ALIVE
    assert KEEP_ALIVE[socket.TCP_KEEPIDLE] + KEEP_ALIVE[socket.TCP_KEEPINTVL] * KEEP_ALIVE[socket.TCP_KEEPCNT] < 60
