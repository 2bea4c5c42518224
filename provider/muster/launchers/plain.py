"""The launcher for any program: every rank is started directly, with no variables but Muster's own ``MUSTER_*``."""

from __future__ import annotations

from muster.core.job import TrainingJob
from muster.core.plan import NodePlan, RankPlan
from muster.launchers.contract import program

RESERVED: frozenset[str] = frozenset()


def plan(job: TrainingJob) -> tuple[NodePlan, ...]:
    """Return one node after the other, ranks counted over all of them."""
    return tuple(NodePlan(node=node, ranks=_ranks(job, node)) for node in range(job.node_count))


def _ranks(job: TrainingJob, node: int) -> tuple[RankPlan, ...]:
    first = node * job.process_count_per_node
    return tuple(
        RankPlan(rank=first + local_rank, local_rank=local_rank, argv=program(job))
        for local_rank in range(job.process_count_per_node)
    )
