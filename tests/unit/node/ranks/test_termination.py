"""Termination: what is killed are processes that exist."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from muster.node import processes
from muster.node.ranks.supervisor import SPAWNER
from muster.node.ranks.termination import LAST_REPORTS, Terminator


@pytest.mark.parametrize(("pid", "killed"), [(0, {12}), (4711, {12, 4711})])
async def test_a_spawner_that_is_not_started_yet_has_no_process_to_kill(
    monkeypatch: pytest.MonkeyPatch, pid: int, killed: set[int]
) -> None:
    signalled: set[int] = set()

    def send(pids: Iterable[int], number: int) -> None:
        assert number == signal.SIGKILL
        signalled.update(pids)

    monkeypatch.setattr(processes, "descendants", lambda root, spare: [11, 12])
    monkeypatch.setattr(processes, "send_signal", send)
    ranks: Any = SimpleNamespace(processes={SPAWNER: SimpleNamespace(shim=11, pid=pid, exit=None)})
    await Terminator(ranks, lambda: 0, "")._last_reports(time.monotonic() - LAST_REPORTS + 0.1)
    assert signalled == killed
