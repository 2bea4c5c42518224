"""JobPlan: what every node will run, as data, with hosts and ports still as tokens."""

from __future__ import annotations

from dataclasses import dataclass

from muster.core.codec import digest
from muster.core.token import Text

PLAN_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class RankPlan:
    """One process: its argv and the variables its launcher sets, both in order.

    ``decides`` is false for services (parameter servers), which never decide the outcome.
    """

    rank: int
    local_rank: int
    argv: tuple[Text, ...]
    env: tuple[tuple[str, Text], ...] = ()
    role: str = "worker"
    decides: bool = True


@dataclass(frozen=True, kw_only=True)
class PortWish:
    """A port to be found free on the node: the first free one from ``near`` upwards."""

    name: str
    near: int


@dataclass(frozen=True, kw_only=True)
class NodePlan:
    """What one node runs. ``ranks`` are started together once every node is ready."""

    node: int
    ranks: tuple[RankPlan, ...]
    ports: tuple[PortWish, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What every node must have, checked in preflight: GPUs, CPUs, memory in bytes (0: not asked)."""

    gpus: int = 0
    cpus: float = 0.0
    memory: int = 0


@dataclass(frozen=True, kw_only=True)
class EnvironmentRef:
    """The environment of the ranks, by digest of its lock, or a user-managed ``interpreter`` path.

    ``lock`` is the resolved list, one ``name==version`` a line, shown in the run and installed by the target.
    """

    digest: str = ""
    interpreter: str = ""
    lock: str = ""
    python: str = ""


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
    """A whole job, ready to submit. The digest of it says whether a running job is the same one.

    ``snapshot`` is the digest of the code, "" for none. ``env`` are the user's variables for every rank; ``secrets`` only
    their names, the values travel beside the plan. ``store`` is ``s3://bucket/prefix``; ``resume_from`` an earlier run.
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
    limits: Limits = Limits()
    resume_from: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    source: tuple[tuple[str, str], ...] = ()  # git remote, branch, commit, dirty: a record, not part of the digest
    version: int = PLAN_VERSION

    @property
    def world_size(self) -> int:
        """Number of ranks over all nodes."""
        return sum(len(node.ranks) for node in self.nodes)

    def digest(self) -> str:
        """Give ``sha256:<hex>`` of everything that decides what the job does."""
        decisive = {f: getattr(self, f) for f in self.__dataclass_fields__ if f not in ("source", "tags")}
        return digest(decisive)
