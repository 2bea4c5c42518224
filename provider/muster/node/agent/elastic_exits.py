"""Tracks the exits of ranks in an elastic run: which of them decide the run, and which are victims of a lost node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from muster.core.plan import JobPlan
from muster.core.verdict import Verdict
from muster.node.agent.exits import EXIT_GRACE, ExitTracker, spawner_failed
from muster.node.ranks.diagnosis import RankExit
from muster.node.ranks.supervisor import SPAWNER

# seconds for the loss of a node to be noticed, which may be why a rank has failed: a broken connection shows with the next
# heartbeat
LOSS_SHOWS = 5.0


class ElasticExitTracker(ExitTracker):
    """Ranks run in rounds, on the nodes that are there; a rank that fails by itself on a node that stays decides the run."""

    def __init__(self, plan: JobPlan) -> None:
        super().__init__(plan)
        self._ranks_of = {node.node: {rank.rank for rank in node.ranks} for node in plan.nodes}
        self._round: set[int] = set()  # its nodes

    def start_round(self, nodes: Iterable[int]) -> None:
        """Start a round on these nodes; earlier exits no longer count."""
        self.end_round()
        self._round = set(nodes)
        self._awaited = set().union(*(self._ranks_of[node] for node in self._round))

    def end_round(self) -> None:
        """End a round: until the next one starts no exit counts."""
        self._round = set()
        self._cancel_timers()
        self.by_rank.clear()

    def record(self, end: RankExit) -> None:
        """Record an exit, without a check whether it decides the run; each node has a spawner of its own."""
        self.by_rank[end.rank - end.node if end.rank == SPAWNER else end.rank] = end

    def add(self, end: RankExit) -> None:
        """Record an exit, and check whether it decides the run."""
        if end.node not in self._round:
            return
        self.record(end)
        if end.failed:
            self._decide_in(LOSS_SHOWS)
        elif self._awaited <= self._succeeded():
            spawners = {SPAWNER - node for node in self._round}
            self._decide_in(0.0 if spawners <= self._succeeded() else EXIT_GRACE)

    def remove(self, node: int) -> None:
        """Remove a node from the round, all of whose ranks have ended well."""
        self._round.discard(node)

    def takes_part(self, node: int) -> bool:
        """Return whether ranks of a node still run in this round, or have failed."""
        return node in self._round and not self._ranks_of[node] <= self._succeeded()

    def _failed(self) -> list[RankExit]:
        return [end for end in super()._failed() if end.node in self._round]

    def _spawner_verdict(self, hosts: Mapping[int, str]) -> Verdict | None:
        failed = [end for rank, end in self.by_rank.items() if rank < 0 and end.failed and not end.victim]
        end = min(failed, key=lambda end: end.ended, default=None)
        return None if end is None or self._plan.spawner is None else spawner_failed(self._plan.spawner.name, end, hosts)
