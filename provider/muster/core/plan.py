"""JobPlan: what every node will run, as data, with placeholders for hosts and ports."""

from __future__ import annotations

from dataclasses import dataclass

from muster.core.codec import digest
from muster.core.job import Mount
from muster.core.placeholder import Text

PLAN_VERSION = 1
END_RUN, CONTINUE = "end", "continue"  # effect of the loss of a node on the run


@dataclass(frozen=True, kw_only=True)
class RankPlan:
    """One process: its argv and the variables its launcher sets, both in order.

    ``decides`` is false for services (parameter servers), which never decide the outcome. ``awaited`` is false for one whose
    failure ends the run, and whose end the run doesn't wait for (a worker that serves a chief for ever).
    """

    rank: int
    local_rank: int
    argv: tuple[Text, ...]
    env: tuple[tuple[str, Text], ...] = ()
    role: str = "worker"
    decides: bool = True
    awaited: bool = True


@dataclass(frozen=True, kw_only=True)
class PortRequest:
    """A port to be found free on the node: the first free one from ``near`` upwards."""

    name: str
    near: int


@dataclass(frozen=True, kw_only=True)
class Spawner:
    """A program on node 0 that starts the ranks of all nodes itself (mpirun), each through the shim of the node it lands on.

    ``argv`` ends where the program to be started would follow: the agent appends the shim's. On the spawner's PATH is
    ``REMOTE_SHELL HOST COMMAND``, which runs a line of shell on the node of that host name; node ``i`` is called ``node-<i>``.
    A shim is the rank that ``rank_variable`` and ``local_rank_variable`` of its environment name; a rank keeps, besides its own
    variables, those beginning with one of ``keeps``.

    With ``per_node`` (torchrun) every node has a spawner, which starts that node's ranks only. The spawners then assign numbers
    and world size (``world_size_variable``); ``RankPlan.rank`` is a rank's place in the plan.
    """

    name: str
    argv: tuple[Text, ...]
    env: tuple[tuple[str, Text], ...] = ()
    rank_variable: str
    local_rank_variable: str
    keeps: tuple[str, ...] = ()
    per_node: bool = False
    world_size_variable: str = ""


REMOTE_SHELL = "muster-remote-shell"


def node_host_name(node: int) -> str:
    """Return the name by which a spawner calls a node; it need not resolve."""
    return f"node-{node}"


@dataclass(frozen=True, kw_only=True)
class NodePlan:
    """Plan of one node. ``ranks`` are started together once every node is ready; by node 0's ``starter`` if it has one, or by
    the node's own.
    """

    node: int
    ranks: tuple[RankPlan, ...]
    ports: tuple[PortRequest, ...] = ()
    starter: Spawner | None = None


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Requirements of every node, checked in preflight: GPUs, CPUs, memory in bytes (0: none), programs on its PATH."""

    gpus: int = 0
    cpus: float = 0.0
    memory: int = 0
    programs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EnvironmentRef:
    """The environment of the ranks, by digest of its lock, or a user-managed ``interpreter`` path, or an ``image`` as it is.

    ``lock`` is the resolved list, one ``name==version`` a line, shown in the run and installed by the target. Targets with
    containers build an image of it on ``base_image`` ("" for their own choice): with ``mpi``, Open MPI is added and, if the
    lock has torch or tensorflow, Horovod compiled for that version; then ``apt_packages``, the lock, and last ``steps``.
    """

    digest: str = ""
    interpreter: str = ""
    lock: str = ""
    python: str = ""
    image: str = ""
    base_image: str = ""
    mpi: bool = False
    gpu: bool = False
    apt_packages: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ContainerOptions:
    """Options of a node's container, for targets with containers. ``shm_size`` in bytes; ``arguments`` of ``docker run``."""

    mounts: tuple[Mount, ...] = ()
    shm_size: int = 2 << 30
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Times of a run in seconds. ``grace``: between TERM and KILL. ``store_patience``: how long the end waits for the store."""

    max_run_duration: float = 2_592_000.0
    grace: float = 10.0
    mesh: float = 120.0
    store_patience: float = 600.0
    abandon_after: float = 0.0


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """A whole job, ready to submit. Its digest tells whether a running job is the same.

    ``snapshot`` is the digest of the code, "" for none. ``env`` are the user's variables for every rank; ``secrets`` only
    their names, the values travel beside the plan. ``store`` is ``s3://bucket/prefix``; ``resume_from`` an earlier run. With
    ``on_node_loss`` "continue" the run goes on as long as ``min_nodes`` are left, node 0 always among them.
    """

    name: str
    framework: str
    nodes: tuple[NodePlan, ...]
    snapshot: str
    environment: EnvironmentRef
    store: str
    env: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()
    needs: Needs = Needs()
    network_interface: str = ""  # named by the user; "" lets the leader choose
    container: ContainerOptions = ContainerOptions()
    limits: Limits = Limits()
    resume_from: str = ""
    on_node_loss: str = END_RUN
    min_nodes: int = 0
    tags: tuple[tuple[str, str], ...] = ()
    source: tuple[tuple[str, str], ...] = ()  # git remote, branch, commit, dirty: a record, not part of the digest
    version: int = PLAN_VERSION

    @property
    def world_size(self) -> int:
        """Number of ranks over all nodes."""
        return sum(len(node.ranks) for node in self.nodes)

    @property
    def spawner(self) -> Spawner | None:
        """Return the program that starts all ranks, None where the agents do; with one on each node, that of node 0."""
        return self.nodes[0].starter

    @property
    def elastic(self) -> bool:
        """Return whether the run survives the loss of nodes."""
        return self.on_node_loss == CONTINUE

    def digest(self) -> str:
        """Return ``sha256:<hex>`` of everything that decides what the job does."""
        decisive = {f: getattr(self, f) for f in self.__dataclass_fields__ if f not in ("source", "tags")}
        return digest(decisive)
