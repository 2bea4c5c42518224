"""Tracks how the ranks of an attempt ended: when that decides the run, and which failed first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from muster.core.plan import JobPlan
from muster.core.verdict import Cause, Verdict
from muster.node.ranks.diagnosis import RankExit
from muster.node.ranks.supervisor import SPAWNER

REPORT_GRACE = 0.25  # seconds for the report of the rank that failed first, once others or the spawner have failed of it
CLOCK_TOLERANCE = 0.1  # seconds within which no clock of a busy machine can say which exit was first
EXIT_GRACE = 5.0  # seconds for the rest, once the spawner or all of its ranks have ended


class ExitTracker:
    """Exits by rank; ``decided`` is set once they decide the run."""

    def __init__(self, plan: JobPlan) -> None:
        self._plan = plan
        self._awaited = {rank.rank for node in plan.nodes for rank in node.ranks if rank.decides and rank.awaited}
        self._timers: list[asyncio.TimerHandle] = []
        self.by_rank: dict[int, RankExit] = {}
        self.decided = asyncio.Event()

    def add(self, end: RankExit) -> None:
        """Record an exit, and check whether it decides the run."""
        self.record(end)
        if end.rank != SPAWNER and end.decides and end.failed:
            return self._decide_in(self._delay_of(end))
        spawner = self.by_rank.get(SPAWNER)
        all_done = self._awaited <= self._succeeded()
        if spawner is not None and spawner.failed:
            self._decide_in(REPORT_GRACE)
        elif all_done and (spawner or not self._plan.spawner):
            self._decide_in(0.0)
        elif all_done or spawner:
            self._decide_in(EXIT_GRACE)

    def record(self, end: RankExit) -> None:
        """Record an exit, without a check whether it decides the run."""
        self.by_rank[end.rank] = end

    def _delay_of(self, end: RankExit) -> float:
        """Return how long a failure waits for a more conclusive one: a spawner and its libraries end ranks too."""
        if self._plan.spawner is None:
            return 0.0
        return EXIT_GRACE if end.victim else 0.0 if end.is_conclusive else REPORT_GRACE

    def _decide_in(self, delay: float) -> None:
        if not delay:
            return self.decided.set()
        self._timers.append(asyncio.get_running_loop().call_later(delay, self.decided.set))

    def reset(self) -> None:
        """Drop all exits, before the ranks are started once more."""
        self._cancel_timers()
        self.by_rank.clear()
        self.decided.clear()

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _succeeded(self) -> set[int]:
        return {rank for rank, end in self.by_rank.items() if not end.failed}

    def first_failed(self, clock_offsets: Mapping[int, float]) -> RankExit | None:
        """Return the exit of the deciding rank that failed first, None if none failed.

        Times are corrected by the offsets of the nodes' clocks; a victim is never the first.
        """
        failed = self._failed()

        def when(end: RankExit) -> float:
            return end.ended - clock_offsets.get(end.node, 0.0)

        first = min(failed, key=lambda end: (end.victim, when(end)), default=None)
        if first is None or first.victim or self._plan.spawner is None:
            return first
        at_once = [end for end in failed if not end.victim and when(end) <= when(first) + CLOCK_TOLERANCE]
        return min(at_once, key=lambda end: (not end.is_conclusive, when(end)))

    def _failed(self) -> list[RankExit]:
        failed = (end for end in self.by_rank.values() if end.decides and end.failed)
        return [end for end in failed if end.rank in self._awaited or not end.victim]

    def verdict(self, clock_offsets: Mapping[int, float], hosts: Mapping[int, str]) -> Verdict | None:
        """Return the verdict on what failed first; None if all ended well."""
        first = self.first_failed(clock_offsets)
        spawner = self._spawner_verdict(hosts) if first is None or first.victim else None
        return spawner or (None if first is None else self._rank_verdict(first, hosts))

    def _rank_verdict(self, end: RankExit, hosts: Mapping[int, str]) -> Verdict:
        return Verdict(
            cause=Cause.RANK,
            node=end.node,
            host=hosts.get(end.node, ""),
            rank=end.rank,
            exit_code=end.exit_code,
            signal=end.signal,
            detail=end.detail,
            hint=end.hint,
            out_of_memory=end.out_of_memory,
            others=sum(1 for rank, other in self.by_rank.items() if rank >= 0 and other.failed) - 1,
        )

    def _spawner_verdict(self, hosts: Mapping[int, str]) -> Verdict | None:
        """Return the verdict on a spawner that failed by itself, or left ranks out."""
        end = self.by_rank.get(SPAWNER)
        if self._plan.spawner is None or end is None or end.victim:
            return None
        if end.failed:
            return spawner_failed(self._plan.spawner.name, end, hosts)
        missing = sorted(self._awaited - self.by_rank.keys())
        if not missing:
            return None
        host = hosts.get(0, "")
        name = f"{self._plan.spawner.name} on node 0 ({host})"
        detail = f"{name} ended, but had not started all ranks: {_listed(missing)} missing"
        return Verdict(cause=Cause.SPAWNER, node=0, host=host, detail=detail, exit_code=end.exit_code, signal=end.signal)


def spawner_failed(name: str, end: RankExit, hosts: Mapping[int, str]) -> Verdict:
    """Return the verdict on a node's spawner that failed though none of its ranks did."""
    host = hosts.get(end.node, "")
    how = f"exit {end.exit_code}" if end.signal is None else f"signal {end.signal}"
    detail = f"{name} on node {end.node} ({host}) failed ({how}): {end.detail or 'it did not say why'}"
    return Verdict(cause=Cause.SPAWNER, node=end.node, host=host, exit_code=end.exit_code, signal=end.signal, detail=detail)


def _listed(ranks: list[int], most: int = 8) -> str:
    more = f" and {len(ranks) - most} more" if len(ranks) > most else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks[:most]))}{more}"
