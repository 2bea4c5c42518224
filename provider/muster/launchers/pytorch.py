"""PyTorch's launcher: every rank is started directly, with the variables that ``init_process_group("env://")`` reads."""

from __future__ import annotations

from muster.core.job import TrainingJob
from muster.core.placeholder import Here, HostOf, PortOf, Text
from muster.core.plan import NodePlan, PortRequest, RankPlan
from muster.launchers.contract import program

MASTER_ADDR = "MASTER_ADDR"
MASTER_PORT = "MASTER_PORT"
WORLD_SIZE = "WORLD_SIZE"
NODE_RANK = "NODE_RANK"
RANK = "RANK"
LOCAL_RANK = "LOCAL_RANK"
LOCAL_WORLD_SIZE = "LOCAL_WORLD_SIZE"
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
THREADS = "OMP_NUM_THREADS"  # not owned: a default that users may change

RESERVED = frozenset(
    {MASTER_ADDR, MASTER_PORT, WORLD_SIZE, NODE_RANK, RANK, LOCAL_RANK, LOCAL_WORLD_SIZE, *INTERFACES},
)

MASTER = PortRequest(name="master", near=6105)


def plan(job: TrainingJob) -> tuple[NodePlan, ...]:
    """Return one node after the other, ranks counted over all of them; node 0 finds the port of the rendezvous."""
    return tuple(_node(job, node) for node in range(job.node_count))


def _node(job: TrainingJob, node: int) -> NodePlan:
    ranks = tuple(_rank(job, node, local_rank) for local_rank in range(job.process_count_per_node))
    return NodePlan(node=node, ranks=ranks, ports=(MASTER,) if node == 0 else ())


def _rank(job: TrainingJob, node: int, local_rank: int) -> RankPlan:
    rank = node * job.process_count_per_node + local_rank
    interface: Text = job.network_interface or (Here(here="interface"),)
    env: tuple[tuple[str, Text], ...] = (
        (MASTER_ADDR, (HostOf(host_of=0),)),
        (MASTER_PORT, (PortOf(port_of=0, port=MASTER.name),)),
        (WORLD_SIZE, str(job.world_size)),
        (NODE_RANK, str(node)),
        (RANK, str(rank)),
        (LOCAL_RANK, str(local_rank)),
        (LOCAL_WORLD_SIZE, str(job.process_count_per_node)),
        *((name, interface) for name in INTERFACES),
        *threads(job),
    )
    return RankPlan(rank=rank, local_rank=local_rank, argv=program(job), env=env)


def threads(job: TrainingJob) -> tuple[tuple[str, Text], ...]:
    """Keep several processes of one node from taking all its cores each, as torchrun does."""
    is_set = THREADS in job.environment_variables or THREADS in job.secrets
    return () if is_set or job.process_count_per_node == 1 else ((THREADS, "1"),)
