"""A probe alone on its host: it looks, opens doors and tries others when it is told to, and leaves nothing."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

import muster
from lab import plan_of
from muster.node.preflight.probe import HostReport, InspectHost, ListPackages, OpenPorts, TryEndpoints
from muster.node.preflight.reachability import Endpoint, try_endpoints
from muster.node.rpc import CommandFailed, Request

A = TypeVar("A")
START = Path(muster.__file__).parent / "node" / "start.py"


class Alone:
    """A probe that is spoken to as a launcher does."""

    def __init__(self, root: Path) -> None:
        argv = [sys.executable, "-I", "-S", str(START), "probe", str(root)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, request: Request[A]) -> A:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request.encode()) + "\n")
        self.process.stdin.flush()
        return request.decode_reply(json.loads(self.process.stdout.readline()))

    def leave(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(60)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Alone]:
    probe = Alone(tmp_path)
    with probe.process:
        yield probe
        probe.process.kill()


def look(alone: Alone, address: str, *mesh_ports: int) -> HostReport:
    """Inspect the first of two nodes, that of the leader."""
    plan = plan_of("pass", "s3://b/p", nodes=2)
    return alone.ask(InspectHost(plan=plan, node=0, address=address, interpreter=sys.executable, mesh_ports=mesh_ports))


def test_its_doors_are_open_as_long_as_somebody_speaks_to_it(alone: Alone, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.9.9.1", 0))
        taken.listen()
        free = taken.getsockname()[1] % 60000 + 1024
        seen = look(alone, "127.9.9.1", taken.getsockname()[1], free)
    assert (seen.mesh_port, seen.facts.address, seen.facts.problem) == (free, "127.9.9.1", "")
    opened = alone.ask(OpenPorts(address="127.9.9.1", spare=True))
    assert len(opened) == 2
    assert try_endpoints(1, [Endpoint(node=0, address="127.9.9.1", ports=(free, *opened))]) == ()
    closed = Endpoint(node=1, address="127.9.9.2", ports=(9,))
    assert alone.ask(TryEndpoints(endpoints=(closed,)))[0].why == "refused, though somebody listens there"
    assert isinstance(alone.ask(ListPackages()), tuple)
    assert alone.leave() == 0
    for port in (free, *opened):
        with socket.socket() as rank:
            rank.bind(("127.9.9.1", port))
    assert list((tmp_path / "jobs").iterdir()) == []


def test_what_it_can_not_do_is_answered(alone: Alone) -> None:
    with pytest.raises(CommandFailed, match="unknown command 'list_packages'; known are inspect_host"):
        alone.ask(ListPackages())
    assert alone.leave() == 0


def test_it_leaves_with_whoever_spoke_to_it(alone: Alone) -> None:
    assert alone.leave() == 0
