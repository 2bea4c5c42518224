"""ExitTracker: how the ranks of an attempt ended, when that decides the run, and who failed first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from muster.core.plan import JobPlan
from muster.core.verdict import Cause, Verdict
from muster.node.ranks.supervisor import SPAWNER

End = dict[str, Any]

REPORT_GRACE = 0.25  # seconds for the word of the rank that failed first, once others or the spawner have failed of it
AT_ONCE = 0.1  # seconds within which no clock of a busy machine tells who was first
EXIT_GRACE = 5.0  # seconds for the rest, once the spawner or all of its ranks have ended


class ExitTracker:
    """ExitTracker by rank; ``decided`` is set once they decide the run."""

    def __init__(self, plan: JobPlan) -> None:
        self._plan = plan
        self._awaited = {rank.rank for node in plan.nodes for rank in node.ranks if rank.decides and rank.awaited}
        self._timers: list[asyncio.TimerHandle] = []
        self.by_rank: dict[int, End] = {}
        self.decided = asyncio.Event()

    def add(self, end: End) -> None:
        """Take the end of a rank, and see whether it decides."""
        self.note(end)
        if end["rank"] != SPAWNER and end["decides"] and end["exit_code"] != 0:
            return self._decide_in(self._patience(end))
        spawner = self.by_rank.get(SPAWNER)
        all_done = self._awaited <= self._well()
        if spawner is not None and spawner["exit_code"] != 0:
            self._decide_in(REPORT_GRACE)
        elif all_done and (spawner or not self._plan.spawner):
            self._decide_in(0.0)
        elif all_done or spawner:
            self._decide_in(EXIT_GRACE)

    def note(self, end: End) -> None:
        """Take an end without a look whether it decides."""
        self.by_rank[end["rank"]] = end

    def _patience(self, end: End) -> float:
        """Give how long a failure waits for one that says more: a spawner's libraries and the spawner itself end ranks too."""
        if self._plan.spawner is None:
            return 0.0
        return EXIT_GRACE if end["victim"] else 0.0 if is_conclusive(end) else REPORT_GRACE

    def _decide_in(self, delay: float) -> None:
        if not delay:
            return self.decided.set()
        self._timers.append(asyncio.get_running_loop().call_later(delay, self.decided.set))

    def start_over(self) -> None:
        """Forget it all, before the ranks are started once more."""
        self._call_off()
        self.by_rank.clear()
        self.decided.clear()

    def _call_off(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _well(self) -> set[int]:
        """Give the ranks that have ended well."""
        return {rank for rank, end in self.by_rank.items() if end["exit_code"] == 0}

    def first_failed(self, clock_offsets: Mapping[int, float]) -> End | None:
        """Give the end of the deciding rank that failed first, None if none failed.

        Times are set right by what the nodes' clocks were off; a rank that was ended by others is never the first.
        """
        failed = self._failed()

        def when(end: End) -> float:
            return float(end["ended"]) - clock_offsets.get(end["node"], 0.0)

        first = min(failed, key=lambda e: (e["victim"], when(e)), default=None)
        if first is None or first["victim"] or self._plan.spawner is None:
            return first
        at_once = [end for end in failed if not end["victim"] and when(end) <= when(first) + AT_ONCE]
        return min(at_once, key=lambda e: (not is_conclusive(e), when(e)))

    def _failed(self) -> list[End]:
        return [
            end
            for end in self.by_rank.values()
            if end["decides"] and end["exit_code"] != 0 and (end["rank"] in self._awaited or not end["victim"])
        ]

    def verdict(self, clock_offsets: Mapping[int, float], hosts: Mapping[int, str]) -> Verdict | None:
        """Give the verdict on what failed first; None if all ended well."""
        first = self.first_failed(clock_offsets)
        spawner = self._spawner_verdict(hosts) if first is None or first["victim"] else None
        return spawner or (None if first is None else self._rank_verdict(first, hosts))

    def _rank_verdict(self, end: End, hosts: Mapping[int, str]) -> Verdict:
        named = {key: end[key] for key in ("node", "rank", "exit_code", "signal", "detail", "hint", "out_of_memory")}
        return Verdict(cause=Cause.RANK, host=hosts.get(end["node"], ""), others=self._stopped() - 1, **named)

    def _stopped(self) -> int:
        return sum(1 for rank, e in self.by_rank.items() if rank >= 0 and e["exit_code"] != 0)

    def _spawner_verdict(self, hosts: Mapping[int, str]) -> Verdict | None:
        """Give the verdict on a spawner that failed by itself, or left ranks out."""
        end = self.by_rank.get(SPAWNER)
        if self._plan.spawner is None or end is None or end["victim"]:
            return None
        if end["exit_code"] != 0:
            return spawner_failed(self._plan.spawner.name, end, hosts)
        missing = sorted(self._awaited - self.by_rank.keys())
        who = f"{self._plan.spawner.name} on node 0 ({hosts.get(0, '')})"
        detail = f"{who} ended, but had not started all ranks: {_listed(missing)} missing"
        how = {"exit_code": end["exit_code"], "signal": end["signal"]}
        return Verdict(cause=Cause.SPAWNER, node=0, host=hosts.get(0, ""), detail=detail, **how) if missing else None


def spawner_failed(name: str, end: End, hosts: Mapping[int, str]) -> Verdict:
    """Give the verdict on a node's spawner that failed though none of its ranks did."""
    node, host = end["node"], hosts.get(end["node"], "")
    how = f"exit {end['exit_code']}" if end["signal"] is None else f"signal {end['signal']}"
    detail = f"{name} on node {node} ({host}) failed ({how}): {end['detail'] or 'it did not say why'}"
    return Verdict(cause=Cause.SPAWNER, node=node, host=host, exit_code=end["exit_code"], signal=end["signal"], detail=detail)


def is_conclusive(end: End) -> bool:
    """Whether an end is by a signal or has last words; libraries of MPI leave without when another rank is gone."""
    return end["signal"] is not None or bool(end["detail"])


def _listed(ranks: list[int], most: int = 8) -> str:
    more = f" and {len(ranks) - most} more" if len(ranks) > most else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks[:most]))}{more}"
