"""Terminates the processes of a node's ranks: TERM, grace, KILL, and verifies that none is left."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

from muster.core.retry import Backoff
from muster.node import processes
from muster.node.ranks.supervisor import SPAWNER, RankSupervisor

SPAWNER_GRACE = 0.3  # seconds that a spawner and its tools have to exit once all ranks of this node are gone
LAST_REPORTS = 3.0  # seconds to wait for the shims' reports once all ranks are gone


class Terminator:
    """Terminates what descends from this process; ``spare`` returns the pid that stays: the sync process.

    ``mark``: the variable that a spawner's tools carry, "" where there is no spawner.
    """

    def __init__(self, ranks: RankSupervisor, spare: Callable[[], int], mark: str) -> None:
        self._ranks = ranks
        self._spare = spare
        self._mark = mark

    async def run(self, grace: float) -> list[int]:
        """TERM, ``grace`` seconds, KILL; return the pids that could not be ended."""
        await self._terminate(grace)
        gone = time.monotonic()
        await self._last_reports(gone)
        return await self._kill(gone + SPAWNER_GRACE if self._mark else time.monotonic() + LAST_REPORTS)

    def _all(self) -> list[int]:
        return processes.descendants(os.getpid(), spare=[self._spare()])

    def _living(self) -> list[int]:
        """Return the ranks and all that descends from them: not the shims, nor the spawner and what it runs beside them."""
        others = {process.shim for process in self._ranks.processes.values()}
        living = self._all()
        if self._mark:
            others |= processes.carrying(self._mark, living)
        return [pid for pid in living if pid not in others]

    async def _terminate(self, grace: float) -> None:
        """TERM every rank and descendant, also those that appear meanwhile, for at most ``grace`` seconds."""
        signalled: set[int] = set()
        deadline, backoff = time.monotonic() + grace, Backoff(0.005, 0.1, factor=1.5)
        while (living := self._living()) and time.monotonic() < deadline:
            processes.send_signal(set(living) - signalled, signal.SIGTERM)
            processes.send_signal(set(living) - signalled, signal.SIGCONT)
            signalled |= set(living)
            await asyncio.sleep(backoff.next())

    async def _last_reports(self, began: float) -> None:
        """KILL what outlived the grace, and wait for the exit of every rank; for the spawner's own not as long."""
        while (running := self._running()) and time.monotonic() < began + LAST_REPORTS:
            living = self._living()
            spawner = self._ranks.processes[SPAWNER].pid if running == {SPAWNER} else 0  # 0 until its shim has started it
            if spawner and time.monotonic() > began + SPAWNER_GRACE:
                living.append(spawner)
            processes.send_signal(living, signal.SIGKILL)
            await asyncio.sleep(0.01)

    def _running(self) -> set[int]:
        return {rank for rank, process in self._ranks.processes.items() if process.exit is None}

    async def _kill(self, deadline: float) -> list[int]:
        """KILL whatever is left, shims included; they and the spawner's tools exit by themselves if they can."""
        while self._all() and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        return await asyncio.to_thread(processes.kill_descendants, os.getpid(), [self._spare()])
