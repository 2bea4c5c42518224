"""RankSupervisor: however a shim or a rank comes to its end, it is heard of, with the reason."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from muster.core.paths import NodePaths
from muster.node.event_log import EventLog
from muster.node.ranks import shim
from muster.node.ranks.commands import ServeRank
from muster.node.ranks.control_socket import ControlSocket
from muster.node.ranks.diagnosis import RankExit, diagnose
from muster.node.ranks.supervisor import NOT_STARTED, RankProcess, RankSpec, RankSupervisor

WITHOUT_FORK = """
import errno, os, runpy, sys
def fork():
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
os.fork = fork
sys.exit(runpy.run_path({shim!r})["main"]({folder!r}, "0"))
"""


class Node:
    """A node whose one rank runs ``argv``; ``ended`` is set to it at its end."""

    def __init__(self, root: Path, *argv: str) -> None:
        self.paths = NodePaths(root=root)
        self.ended: asyncio.Future[RankProcess] = asyncio.get_running_loop().create_future()
        self.ranks = RankSupervisor(self.paths, EventLog(self.paths.events, 0), self.ended.set_result)
        self.door = ControlSocket(self.paths.socket, {ServeRank: self.ranks.serve})
        env = {"PATH": os.environ["PATH"], "MUSTER_METRICS": str(self.paths.metrics(0))}
        self.spec = RankSpec(rank=0, argv=list(argv), env=env, cwd=str(root))
        self.ranks.reset()
        self.door.open()

    async def end(self) -> RankExit:
        """Wait for the end of the rank; return its exit, which its event log has, too."""
        process = await asyncio.wait_for(self.ended, 120)
        events = [json.loads(line) for line in self.paths.events.read_text(encoding="utf-8").splitlines()]
        assert events[-1]["k"] == "rank_end"
        return diagnose(process, 0, 0)


@pytest.fixture
async def reaped() -> AsyncIterator[list[int]]:
    """Take pids of ours to wait for in the end."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        await asyncio.to_thread(os.waitpid, pid, 0)


@pytest.mark.parametrize(("last", "code", "number"), [("exit 3", 3, None), ("exit 0", 1, None), ("kill -9 $$", None, 9)])
async def test_a_shim_that_never_comes_ends_its_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str, code: int | None, number: int | None
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{last}\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    node = Node(tmp_path, "true")
    node.ranks.start(node.spec)
    pid, status = await asyncio.to_thread(os.waitpid, node.ranks.processes[0].shim, 0)
    node.ranks.record_reaped({pid: os.waitstatus_to_exitcode(status)})
    end = await node.end()
    assert (end.exit_code, end.signal, end.detail) == (code, number, NOT_STARTED)


async def test_a_shim_that_has_come_speaks_for_itself(tmp_path: Path, reaped: list[int]) -> None:
    node = Node(tmp_path, "sh", "-c", "read line; exit 7")
    node.ranks.start(node.spec)
    reaped.append(node.ranks.processes[0].shim)
    end = await node.end()
    node.ranks.record_reaped({reaped[0]: 7})
    assert (end.exit_code, end.detail) == (7, "")


async def test_a_rank_that_can_not_be_forked_says_so(tmp_path: Path) -> None:
    node = Node(tmp_path, "true")
    node.ranks._add(node.spec)
    code = WITHOUT_FORK.format(shim=shim.__file__, folder=str(tmp_path))
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], timeout=120, check=False)
    end = await node.end()
    assert end.exit_code == done.returncode == 127
    assert "Resource temporarily unavailable" in end.detail
    assert "ulimit -u" in end.detail


async def test_a_rank_whose_output_can_not_be_taken_is_heard_of(
    tmp_path: Path, reaped: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = socket.recv_fds

    def receive_no_fds(*args: Any) -> Any:
        data, fds, *rest = receive(*args)
        for fd in fds:
            os.close(fd)
        return data, [], *rest

    monkeypatch.setattr(socket, "recv_fds", receive_no_fds)
    node = Node(tmp_path, "sleep", "600")
    node.ranks.start(node.spec)
    reaped.append(node.ranks.processes[0].shim)
    end = await node.end()
    os.kill(end.pid, signal.SIGKILL)
    assert end.signal == signal.SIGKILL
    assert "Too many open files" in end.detail


@pytest.mark.parametrize("write", ["mkdir $MUSTER_METRICS", "rm -r $(dirname $MUSTER_METRICS)", "echo $ROW >> $MUSTER_METRICS"])
async def test_whatever_a_rank_does_to_its_metrics_its_end_is_heard(tmp_path: Path, reaped: list[int], write: str) -> None:
    row = json.dumps({"name": "big", "value": 10**400})
    node = Node(tmp_path, "sh", "-c", f"ROW='{row}'; {write}; exit 4")
    node.ranks.start(node.spec)
    reaped.append(node.ranks.processes[0].shim)
    assert (await node.end()).exit_code == 4


async def test_metrics_that_can_be_read_are_taken(tmp_path: Path, reaped: list[int]) -> None:
    rows = "\n".join(json.dumps({"name": name, "value": value}) for name, value in (("loss", 0.5), ("big", 10**400), ("n", 2)))
    node = Node(tmp_path, "sh", "-c", f"echo '{rows}' >> $MUSTER_METRICS; echo no json >> $MUSTER_METRICS")
    node.ranks.start(node.spec)
    reaped.append(node.ranks.processes[0].shim)
    assert (await node.end()).exit_code == 0
    assert node.ranks.last_metrics == {"loss": 0.5, "n": 2.0}
