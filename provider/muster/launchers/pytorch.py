"""PyTorch launcher: every rank is started directly, with the variables of ``torch.distributed``'s ``env://`` rendezvous."""

from __future__ import annotations

from muster.core.job import TrainingJob
from muster.core.plan import NodePlan, PortWish, RankPlan
from muster.core.token import Here, HostOf, PortOf, Text
from muster.launchers.program import program

MASTER_PORT_NEAR = 6105

MASTER_ADDR = "MASTER_ADDR"
MASTER_PORT = "MASTER_PORT"
WORLD_SIZE = "WORLD_SIZE"
NODE_RANK = "NODE_RANK"
RANK = "RANK"
LOCAL_RANK = "LOCAL_RANK"
LOCAL_WORLD_SIZE = "LOCAL_WORLD_SIZE"
GLOO_SOCKET_IFNAME = "GLOO_SOCKET_IFNAME"
NCCL_SOCKET_IFNAME = "NCCL_SOCKET_IFNAME"
OMP_NUM_THREADS = "OMP_NUM_THREADS"

RESERVED = frozenset(
    {
        MASTER_ADDR,
        MASTER_PORT,
        WORLD_SIZE,
        NODE_RANK,
        RANK,
        LOCAL_RANK,
        LOCAL_WORLD_SIZE,
        GLOO_SOCKET_IFNAME,
        NCCL_SOCKET_IFNAME,
    }
)


def plan(job: TrainingJob) -> tuple[NodePlan, ...]:
    """Give one rank for each process, numbered node by node; node 0 finds the rendezvous port."""
    return tuple(
        NodePlan(
            node=node,
            ranks=tuple(_rank(job, node, local) for local in range(job.process_count_per_node)),
            ports=(PortWish(name="master", near=MASTER_PORT_NEAR),) if node == 0 else (),
        )
        for node in range(job.node_count)
    )


def _rank(job: TrainingJob, node: int, local_rank: int) -> RankPlan:
    rank = node * job.process_count_per_node + local_rank
    interface: Text = job.network_interface or (Here(here="interface"),)
    env: list[tuple[str, Text]] = [
        (MASTER_ADDR, (HostOf(host_of=0),)),
        (MASTER_PORT, (PortOf(port_of=0, port="master"),)),
        (WORLD_SIZE, str(job.world_size)),
        (NODE_RANK, str(node)),
        (RANK, str(rank)),
        (LOCAL_RANK, str(local_rank)),
        (LOCAL_WORLD_SIZE, str(job.process_count_per_node)),
        (GLOO_SOCKET_IFNAME, interface),
        (NCCL_SOCKET_IFNAME, interface),
    ]
    if job.process_count_per_node > 1 and OMP_NUM_THREADS not in job.environment_variables:
        env.append((OMP_NUM_THREADS, "1"))  # as torchrun does: several ranks with a thread for every core fight over them
    return RankPlan(rank=rank, local_rank=local_rank, argv=program(job), env=tuple(env))
