"""Plain launcher: any program, once for each process, with no variables but the ``MUSTER_*`` ones that every rank has."""

from __future__ import annotations

from muster.core.job import TrainingJob
from muster.core.plan import NodePlan, RankPlan
from muster.launchers.program import program

RESERVED: frozenset[str] = frozenset()


def plan(job: TrainingJob) -> tuple[NodePlan, ...]:
    """Give one rank for each process, numbered node by node."""
    width = job.process_count_per_node
    return tuple(
        NodePlan(
            node=node,
            ranks=tuple(RankPlan(rank=node * width + i, local_rank=i, argv=program(job)) for i in range(width)),
        )
        for node in range(job.node_count)
    )
