"""MPI's launcher: mpirun on node 0 starts all ranks, through the agents; Open MPI 4 and 5, Horovod, and PyTorch over MPI.

Open MPI is configured by variables; each version reads its own and ignores the others. Control and data go over the training
network, given as an address range; where a version can't read ranges, by the interface's name if all nodes agree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from muster.core.job import TrainingJob
from muster.core.placeholder import Here, Text
from muster.core.plan import REMOTE_SHELL, NodePlan, RankPlan, Spawner, node_host_name
from muster.launchers import pytorch
from muster.launchers.contract import program

MPIRUN = "mpirun"
PROGRAMS = (MPIRUN,)
PYTORCH = "pytorch"

Variables = tuple[tuple[str, Text], ...]

RANK = "OMPI_COMM_WORLD_RANK"
LOCAL_RANK = "OMPI_COMM_WORLD_LOCAL_RANK"
WORLD = frozenset({f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "NODE_RANK")})
KEPT = ("OMPI_", "OPAL_", "PMIX_", "PRTE_")  # variables of mpirun's that a rank keeps

NETWORK: Text = (Here(here="network"),)
INTERFACE: Text = (Here(here="interface"),)
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")

# the remote shell of the agents, and the network: owned, since nothing would start with another
OWNED: Variables = (
    ("OMPI_MCA_plm_rsh_agent", REMOTE_SHELL),
    ("OMPI_MCA_plm_rsh_no_tree_spawn", "1"),
    ("OMPI_MCA_if_base_do_not_resolve", "1"),  # names of nodes are ours; DNS lookups of them can take many seconds
    ("OMPI_MCA_oob_tcp_if_include", NETWORK),
    ("OMPI_MCA_btl_tcp_if_include", NETWORK),
    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
    ("PRTE_MCA_plm_ssh_agent", REMOTE_SHELL),
    ("PRTE_MCA_plm_ssh_no_tree_spawn", "1"),
    ("PRTE_MCA_prte_do_not_resolve", "1"),
    ("PRTE_MCA_prte_if_include", (Here(here="common_interface"),)),
    ("PRTE_ALLOW_RUN_AS_ROOT", "1"),
    ("PRTE_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
)
# not owned: users may know better. Memory is copied twice between ranks of a node, since containers may not read each other's
DEFAULTS: Variables = (
    ("OMPI_MCA_pml", "ob1"),
    ("OMPI_MCA_btl", "^openib,uct,ofi,usnic"),
    ("OMPI_MCA_mpi_yield_when_idle", "1"),  # costs nothing, and is many times faster where ranks outnumber CPUs
    ("OMPI_MCA_btl_vader_single_copy_mechanism", "none"),
    ("OMPI_MCA_smsc", "^cma,knem"),
    ("OMPI_MCA_coll_han_priority", "0"),  # it hangs where two nodes have the same host name
    ("HWLOC_COMPONENTS", "-gl"),  # else it looks for displays of X
)
# nodes of one host would meet in files of the same name; a user's own choice comes by mpirun and wins
SCRATCH: Variables = (("OMPI_MCA_btl_vader_backing_directory", (Here(here="scratch"),)),)
HOROVOD: Variables = (("HOROVOD_CONTROLLER", "mpi"), ("HOROVOD_CPU_OPERATIONS", "mpi"))

# options of mpirun that replace a default of ours; Open MPI 5 refuses some that are there twice
COUNTING = frozenset({"-np", "--np", "-n", "--n", "-c"})
HOSTS = frozenset({"-H", "-host", "--host", "-hostfile", "--hostfile", "-machinefile", "--machinefile"})
MAPPING = frozenset(
    f"{dash}{name}"
    for dash in ("-", "--")
    for name in (
        "map-by",
        "N",
        "npernode",
        "pernode",
        "npersocket",
        "bynode",
        "byslot",
        "ppr",
        "oversubscribe",
        "rankfile",
        "rf",
    )
)
BINDING = frozenset(f"{dash}{name}" for dash in ("-", "--") for name in ("bind-to", "bind-to-core", "bind-to-socket"))
EXPORTS = frozenset({"-x", "--x"})

RESERVED = frozenset(
    {*WORLD, *(name for name, _ in (*OWNED, *HOROVOD)), *INTERFACES, *pytorch.RESERVED},
)


def plan(job: TrainingJob) -> tuple[NodePlan, ...]:
    """Return every node with its ranks as slots in the usual order; node 0 has mpirun, which starts them all."""
    nodes = pytorch.plan(job) if job.framework == PYTORCH else tuple(_node(job, node) for node in range(job.node_count))
    nodes = tuple(_under_mpi(node) for node in nodes)
    return (dataclasses.replace(nodes[0], starter=_spawner(job)), *nodes[1:])


def _node(job: TrainingJob, node: int) -> NodePlan:
    first = node * job.process_count_per_node
    ranks = (RankPlan(rank=first + local, local_rank=local, argv=program(job)) for local in range(job.process_count_per_node))
    return NodePlan(node=node, ranks=tuple(ranks))


def _under_mpi(node: NodePlan) -> NodePlan:
    ranks = (dataclasses.replace(rank, env=tuple(_rank_env(rank.env))) for rank in node.ranks)
    return dataclasses.replace(node, ranks=tuple(ranks))


def _rank_env(given: Variables) -> Iterator[tuple[str, Text]]:
    """Yield a rank's variables beside mpirun's; mpirun decides on which node it lands."""
    local = {pytorch.LOCAL_RANK: "local_rank", pytorch.NODE_RANK: "node"}
    for name, value in given:
        if name not in INTERFACES:
            yield name, (Here(here=local[name]),) if name in local else value
    yield from (*HOROVOD, *SCRATCH)
    for name in INTERFACES:
        yield name, INTERFACE


def _spawner(job: TrainingJob) -> Spawner:
    own = job.environment_variables
    return Spawner(
        name=MPIRUN,
        argv=(MPIRUN, *_options(job), *job.mpi_arguments),
        env=(*OWNED, *((name, value) for name, value in DEFAULTS if name not in own)),
        rank_variable=RANK,
        local_rank_variable=LOCAL_RANK,
        keeps=(*KEPT, *_exported(job.mpi_arguments)),
    )


def _options(job: TrainingJob) -> Iterator[str]:
    """Yield our options of mpirun, but for those that the user sets."""
    given = {argument.partition("=")[0] for argument in job.mpi_arguments}
    slots = ",".join(f"{node_host_name(node)}:{job.process_count_per_node}" for node in range(job.node_count))
    ours = (
        (COUNTING, ("-np", str(job.world_size))),
        (HOSTS, ("-H", slots)),
        (MAPPING, ("--map-by", "slot")),
        (BINDING, ("--bind-to", "none")),
    )
    for options, words in ours:
        if not options & given:
            yield from words


def _exported(arguments: Iterable[str]) -> Iterator[str]:
    """Yield the names of variables that the user exports by mpirun (``-x NAME``, ``-x NAME=VALUE``)."""
    words = iter(arguments)
    for word in words:
        if word in EXPORTS:
            yield from filter(None, [next(words, "").partition("=")[0]])
