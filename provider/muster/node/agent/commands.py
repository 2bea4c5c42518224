"""The commands between the leader and the other agents of a gang."""

from __future__ import annotations

from dataclasses import dataclass, field

from muster.core.manifest import ManifestFile
from muster.core.verdict import Verdict
from muster.node.preflight.facts import Facts
from muster.node.ranks.diagnosis import RankExit
from muster.node.rpc import Request
from muster.node.sync_commands import OutputName

# -- answers


@dataclass(frozen=True, kw_only=True)
class StoreResult:
    """Outcome of a request to the store; ``error`` is "" on success."""

    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Restored(StoreResult):
    """Number of checkpoint files restored."""

    files: int = 0


@dataclass(frozen=True, kw_only=True)
class FilesStored(StoreResult):
    """The kept files of a node, as they lie in the store."""

    files: tuple[ManifestFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RanksStopped:
    """Exits of a node's ranks, and their last metrics by name."""

    exits: tuple[RankExit, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)


# -- to the leader


@dataclass(frozen=True, kw_only=True)
class Join(Request[bool]):
    """Join the gang; refused if the node is there already, or may not come back. ``clock``: the node's own."""

    node: int
    facts: Facts
    clock: float


@dataclass(frozen=True, kw_only=True)
class Halt(Request[None]):
    """End the run with a verdict."""

    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class ReportExit(Request[None]):
    """Report that a rank has ended."""

    exit: RankExit


# -- to every node


@dataclass(frozen=True, kw_only=True)
class InspectNode(Request[Facts]):
    """Inspect the node."""


@dataclass(frozen=True, kw_only=True)
class Restore(Request[Restored]):
    """Restore the last committed checkpoints of a run; with ``newest`` only those newer than what is on the node."""

    run: str
    generation: int
    newest: bool = False


@dataclass(frozen=True, kw_only=True)
class StartRanks(Request[None]):
    """Start the ranks, or be ready for those that a spawner starts.

    ``hosts``, ``ports`` and ``local_bindings``: what only the leader knows, by node; ``secrets`` for a node that came back.
    """

    hosts: tuple[str, ...]
    ports: tuple[dict[str, int], ...]
    local_bindings: tuple[dict[str, str], ...]
    secrets: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StartSpawner(Request[None]):
    """Start the spawner, once every node is ready for its ranks; on node 0 only, unless each node has one."""


@dataclass(frozen=True, kw_only=True)
class StopRanks(Request[RanksStopped]):
    """End every rank and descendant of the node, verified."""


@dataclass(frozen=True, kw_only=True)
class StoreFiles(Request[FilesStored]):
    """Store every kept file of the node; ``timeout`` in seconds."""

    timeout: float


@dataclass(frozen=True, kw_only=True)
class StoreUnderNames(Request[StoreResult]):
    """Store the node's content under the keys that the leader decided on."""

    files: tuple[OutputName, ...]
    timeout: float


@dataclass(frozen=True, kw_only=True)
class FinishLog(Request[str]):
    """Store the rest of the node's event log; without a sync process the answer is the whole log, for the leader to store."""

    timeout: float


@dataclass(frozen=True, kw_only=True)
class Leave(Request[None]):
    """End the agent: the run is over."""
