"""The exits of ranks in an elastic run: which of them decide the run, and which are victims of a lost node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from muster.core.plan import JobPlan
from muster.core.verdict import Verdict
from muster.node.agent.exits import EXIT_GRACE, End, ExitTracker, spawner_failed
from muster.node.ranks.supervisor import SPAWNER

# seconds in which the loss of a node shows that may be why a rank has failed: a connection that broke is noticed with the next
# sign of life
LOSS_SHOWS = 5.0


class ElasticExitTracker(ExitTracker):
    """Ranks are started in rounds, on the nodes that are there; one that fails by itself on a node that stays decides."""

    def __init__(self, plan: JobPlan) -> None:
        super().__init__(plan)
        self._ranks_of = {node.node: {rank.rank for rank in node.ranks} for node in plan.nodes}
        self._taking_part: set[int] = set()

    def begin(self, nodes: Iterable[int]) -> None:
        """Begin a round on these nodes; what ended before it counts no more."""
        self.pause()
        self._taking_part = set(nodes)
        self._awaited = set().union(*(self._ranks_of[node] for node in self._taking_part))

    def pause(self) -> None:
        """End a round: until the next one begins no end counts, nor what has failed up to now."""
        self._taking_part = set()
        self._call_off()
        self.by_rank.clear()

    def note(self, end: End) -> None:
        """Take an end without a look whether it decides; each node has a spawner of its own."""
        self.by_rank[end["rank"] - end["node"] if end["rank"] == SPAWNER else end["rank"]] = end

    def add(self, end: End) -> None:
        """Take the end of a rank, and see whether it decides."""
        if end["node"] not in self._taking_part:
            return
        self.note(end)
        if end["exit_code"] != 0:
            self._decide_in(LOSS_SHOWS)
        elif self._awaited <= self._well():
            spawners = {SPAWNER - node for node in self._taking_part}
            self._decide_in(0.0 if spawners <= self._well() else EXIT_GRACE)

    def forget(self, node: int) -> None:
        """Go on without a node all of whose ranks have ended well."""
        self._taking_part.discard(node)

    def takes_part(self, node: int) -> bool:
        """Whether ranks of a node still run in this round, or have failed."""
        return node in self._taking_part and not self._ranks_of[node] <= self._well()

    def _failed(self) -> list[End]:
        return [end for end in super()._failed() if end["node"] in self._taking_part]

    def _spawner_verdict(self, hosts: Mapping[int, str]) -> Verdict | None:
        failed = [end for rank, end in self.by_rank.items() if rank < 0 and end["exit_code"] != 0 and not end["victim"]]
        end = min(failed, key=lambda end: float(end["ended"]), default=None)
        return None if end is None or self._plan.spawner is None else spawner_failed(self._plan.spawner.name, end, hosts)
