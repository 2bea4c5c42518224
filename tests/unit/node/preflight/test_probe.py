"""A probe alone on its host: it looks, opens doors and tries others when it is told to, and leaves nothing."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import muster
from lab import plan_of
from muster.core.codec import to_data
from muster.node.preflight.reachability import Endpoint, tried

START = Path(muster.__file__).parent / "node" / "start.py"


class Alone:
    """A probe that is spoken to as a launcher does."""

    def __init__(self, root: Path) -> None:
        argv = [sys.executable, "-I", "-S", str(START), "probe", str(root)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, do: str, **fields: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

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


def look(alone: Alone, address: str, mesh: list[int]) -> dict[str, Any]:
    """Have it look at the first of two nodes, that of the leader."""
    known = {"plan": to_data(plan_of("pass", "s3://b/p", nodes=2)), "node": 0, "address": address, "archive": ""}
    seen: dict[str, Any] = alone.ask("look", **known, interpreter=sys.executable, devices=[], mesh=mesh)
    return seen


def test_its_doors_are_open_as_long_as_somebody_speaks_to_it(alone: Alone, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.9.9.1", 0))
        taken.listen()
        free = taken.getsockname()[1] % 60000 + 1024
        seen = look(alone, "127.9.9.1", [taken.getsockname()[1], free])
    assert (seen["door"], seen["facts"]["address"], seen["facts"]["problem"]) == (free, "127.9.9.1", "")
    opened = alone.ask("open_doors", address="127.9.9.1", spare=True)
    assert len(opened) == 2
    assert tried(1, [Endpoint(node=0, address="127.9.9.1", ports=(free, *opened))]) == []
    assert alone.ask("try_doors", doors=[[1, "127.9.9.2", [9]]])[0]["why"] == "refused, though somebody listens there"
    assert isinstance(alone.ask("packages"), list)
    assert alone.leave() == 0
    for port in (free, *opened):
        with socket.socket() as rank:
            rank.bind(("127.9.9.1", port))
    assert list((tmp_path / "jobs").iterdir()) == []


def test_it_leaves_with_whoever_spoke_to_it(alone: Alone) -> None:
    assert alone.leave() == 0
