"""The launcher for any program: ranks are started side by side and told nothing but Muster's own ``MUSTER_*`` variables."""

from __future__ import annotations

from muster.core.job import TrainingJob
from muster.core.plan import NodePlan, RankPlan
from muster.launchers.contract import program

RESERVED: frozenset[str] = frozenset()


def plan(job: TrainingJob) -> tuple[NodePlan, ...]:
    """Give one node after the other, ranks counted over all of them."""
    return tuple(NodePlan(node=node, ranks=_ranks(job, node)) for node in range(job.node_count))


def _ranks(job: TrainingJob, node: int) -> tuple[RankPlan, ...]:
    first = node * job.process_count_per_node
    return tuple(
        RankPlan(rank=first + local_rank, local_rank=local_rank, argv=program(job))
        for local_rank in range(job.process_count_per_node)
    )
