"""torchrun's launcher, for elastic PyTorch: a torchrun on each node starts its ranks, and a new one whenever nodes come or go.

torchrun assigns the ranks' numbers; its rendezvous is on node 0, which the run can't lose. The agents decide which nodes take
part, whether the run continues without one, and what counts as its failure: see ``docs/adr/0014``.
"""

from __future__ import annotations

from muster.core.job import TrainingJob
from muster.core.placeholder import Here, HostOf, PortOf, Text
from muster.core.plan import NodePlan, PortRequest, RankPlan, Spawner
from muster.launchers import pytorch
from muster.launchers.contract import program

NAME = "torchrun"
GROUP_RANK = "GROUP_RANK"
GROUP_WORLD_SIZE = "GROUP_WORLD_SIZE"
RENDEZVOUS = PortRequest(name="rendezvous", near=29400)  # torchrun's own default

# variables of torchrun's that a rank keeps
KEPT = (
    pytorch.MASTER_ADDR,
    pytorch.MASTER_PORT,
    pytorch.RANK,
    pytorch.WORLD_SIZE,
    "LOCAL_",
    "GROUP_",
    "ROLE_",
    "TORCHELASTIC_",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
)
RESERVED = frozenset(
    {
        *pytorch.RESERVED,
        GROUP_RANK,
        GROUP_WORLD_SIZE,
        "ROLE_RANK",
        "ROLE_NAME",
        "ROLE_WORLD_SIZE",
        "TORCHELASTIC_RESTART_COUNT",
        "TORCHELASTIC_MAX_RESTARTS",
        "TORCHELASTIC_RUN_ID",
        "TORCHELASTIC_USE_AGENT_STORE",
    }
)


def plan(job: TrainingJob) -> tuple[NodePlan, ...]:
    """Return every node with its torchrun and its ranks, counted over all nodes; node 0 finds the port of the rendezvous."""
    return tuple(_node(job, node) for node in range(job.node_count))


def _node(job: TrainingJob, node: int) -> NodePlan:
    ranks = tuple(_rank(job, node, local_rank) for local_rank in range(job.process_count_per_node))
    return NodePlan(node=node, ranks=ranks, ports=(RENDEZVOUS,) if node == 0 else (), starter=_spawner(job, node))


def _rank(job: TrainingJob, node: int, local_rank: int) -> RankPlan:
    """Return a rank with its place in the plan; torchrun assigns the rank's number in each round."""
    interface: Text = job.network_interface or (Here(here="interface"),)
    env = (*((name, interface) for name in pytorch.INTERFACES), *pytorch.threads(job))
    rank = node * job.process_count_per_node + local_rank
    return RankPlan(rank=rank, local_rank=local_rank, argv=program(job), env=env)


def _spawner(job: TrainingJob, node: int) -> Spawner:
    return Spawner(
        name=NAME,
        argv=(
            (Here(here="interpreter"),),
            "-m",
            "torch.distributed.run",
            ("--nnodes=", Here(here="nodes")),
            f"--nproc-per-node={job.process_count_per_node}",
            "--max-restarts=0",
            "--rdzv-backend=c10d",
            ("--rdzv-endpoint=", HostOf(host_of=0), ":", PortOf(port_of=0, port=RENDEZVOUS.name)),
            ("--rdzv-id=", Here(here="attempt"), "-", Here(here="round")),  # processes left of an earlier round can't join
            f"--rdzv-conf=is_host={'true' if node == 0 else 'false'}",
            ("--local-addr=", HostOf(host_of=node)),
            "--no-python",
        ),
        env=((pytorch.THREADS, "1"),),
        rank_variable=pytorch.RANK,
        local_rank_variable=pytorch.LOCAL_RANK,
        world_size_variable=pytorch.WORLD_SIZE,
        keeps=KEPT,
        per_node=True,
    )
