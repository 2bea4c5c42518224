"""The mesh: who has not the job's certificate stays outside; requests, pushes and losses."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from muster.node import mesh
from muster.node.rpc import CommandFailed, Commands, Request
from muster.packaging.certificate import make_certificate
from seaweedfs import free_ports

ADDRESS = "127.0.0.1"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "mesh.pem"
    path.write_bytes(make_certificate())
    return path


@dataclass(frozen=True, kw_only=True)
class Echo(Request[str]):
    value: str = ""


@dataclass(frozen=True, kw_only=True)
class Fail(Request[None]):
    """Fails on the other side."""


@dataclass(frozen=True, kw_only=True)
class Give(Request[Any]):
    """Is answered by what is no JSON."""


async def fail(request: Fail) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a disk")


COMMANDS = Commands({Echo: lambda echo: f"echo {echo.value}", Fail: fail, Give: lambda _: object()})


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await mesh.Peer(reader, writer, COMMANDS).serve()


async def connected(job: str, certificate: Path) -> tuple[asyncio.Server, mesh.Peer]:
    server = await mesh.listen(ADDRESS, job, certificate, serve)
    peer = mesh.Peer(*await mesh.connect(ADDRESS, job, certificate, time.monotonic() + 60), COMMANDS)
    asyncio.get_running_loop().create_task(peer.serve())
    return server, peer


def test_a_request_is_answered(certificate: Path) -> None:
    async def ask() -> Any:
        server, peer = await connected("job-a", certificate)
        reply = await peer.ask(Echo(value="späße\n"))
        await peer.close()
        server.close()
        return reply

    assert asyncio.run(ask()) == "echo späße\n"


@pytest.mark.parametrize(("do", "why"), [(Fail(), "No space left on device: /a disk"), (Give(), "TypeError: .* not JSON")])
def test_a_request_that_fails_says_why_and_the_connection_lives_on(certificate: Path, do: Request[Any], why: str) -> None:
    async def ask() -> Any:
        server, peer = await connected("job-f", certificate)
        with pytest.raises(CommandFailed, match=why):
            await asyncio.wait_for(peer.ask(do), 60)
        reply = await peer.ask(Echo(value="1"))
        await peer.close()
        server.close()
        return reply

    assert asyncio.run(ask()) == "echo 1"


def test_who_has_slept_itself_does_not_count_the_other_side_as_silent(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh, "HEARTBEAT", 0.2)
    monkeypatch.setattr(mesh, "SILENCE", 1.0)

    async def sleep_and_ask() -> Any:
        server, peer = await connected("job-s", certificate)
        await peer.ask(Echo())
        time.sleep(2.0)  # noqa: ASYNC251 - as on a machine that was stopped for a while: nothing here runs
        await asyncio.sleep(0.1)
        reply = await peer.ask(Echo(value="still here"))
        await peer.close()
        server.close()
        return reply

    assert asyncio.run(sleep_and_ask()) == "echo still here"


def test_who_can_not_take_what_it_is_told_hangs_up(certificate: Path) -> None:
    async def report() -> str:
        server, peer = await connected("job-g", certificate)
        peer.push(Fail())
        why = await asyncio.wait_for(peer.lost, 60)
        server.close()
        return why

    assert "connection" in asyncio.run(report())


def test_a_stranger_with_another_certificate_is_refused(certificate: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(make_certificate())

    async def intrude() -> None:
        server = await mesh.listen(ADDRESS, "job-b", certificate, serve)
        try:
            peer = mesh.Peer(*await mesh.connect(ADDRESS, "job-b", other, time.monotonic() + 1), COMMANDS)
            serving = asyncio.ensure_future(peer.serve())
            await asyncio.wait_for(peer.ask(Echo()), 60)
            serving.cancel()
        finally:
            server.close()

    with pytest.raises(mesh.PeerLost):
        asyncio.run(intrude())


def test_two_jobs_on_the_same_ports_find_their_own_leader(certificate: Path, tmp_path: Path, monkeypatch: Any) -> None:
    ports = free_ports(2)
    monkeypatch.setattr(mesh, "ports_of", lambda job: ports)
    other = tmp_path / "other.pem"
    other.write_bytes(make_certificate())

    async def meet() -> Any:
        first = await mesh.listen(ADDRESS, "one", other, serve)
        second, peer = await connected("two", certificate)
        reply = await peer.ask(Echo(value="2"))
        for server in (first, second):
            server.close()
        return reply

    assert asyncio.run(meet()) == "echo 2"


def test_a_peer_that_goes_away_is_lost_and_waiting_requests_fail(certificate: Path) -> None:
    async def lose() -> str:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.transport.abort()

        server = await mesh.listen(ADDRESS, "job-c", certificate, hang_up)
        peer = mesh.Peer(*await mesh.connect(ADDRESS, "job-c", certificate, time.monotonic() + 60), COMMANDS)
        serving = asyncio.ensure_future(peer.serve())
        with pytest.raises(mesh.PeerLost):
            await peer.ask(Echo())
        await serving
        server.close()
        return peer.lost.result()

    assert "connection" in asyncio.run(lose())


def test_no_leader_is_said_with_its_address(certificate: Path) -> None:
    with pytest.raises(mesh.PeerLost, match=r"no leader of this job answered on 127\.0\.0\.1"):
        asyncio.run(mesh.connect(ADDRESS, "nobody", certificate, time.monotonic() + 0.2))
