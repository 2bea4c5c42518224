"""Commands of the sync process, which the agent asks for what concerns the store; ``timeout`` is in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from muster.core.manifest import Manifest, ManifestFile
from muster.node.rpc import Request


@dataclass(frozen=True, kw_only=True)
class CheckStore(Request[None]):
    """Check that the store can be used; ``archive``, the packed code named by ``snapshot``, is stored later."""

    snapshot: str = ""
    archive: str | None = None


@dataclass(frozen=True, kw_only=True)
class RestoreCheckpoints(Request[int]):
    """Restore the last committed checkpoints of a run that had ``nodes`` nodes; the answer is the number of files.

    Generation 0 is the run's newest. With ``newest``, only files that were changed later than those in place.
    """

    run: str
    generation: int
    nodes: int
    newest: bool = False


@dataclass(frozen=True, kw_only=True)
class UploadFiles(Request[tuple[ManifestFile, ...]]):
    """Store every file of the node as it is now, and none afterwards but on request; the answer is the stored files."""

    timeout: float


@dataclass(frozen=True, kw_only=True)
class OutputName:
    """The key under which the store is to have a file of the node."""

    path: str
    key: str


@dataclass(frozen=True, kw_only=True)
class UploadObjects(Request[None]):
    """Upload files of this node to objects; unchanged ones are skipped."""

    files: tuple[OutputName, ...]
    timeout: float


@dataclass(frozen=True, kw_only=True)
class CommitManifest(Request[str]):
    """Write the manifest, once; the answer is its address."""

    manifest: Manifest
    timeout: float


@dataclass(frozen=True, kw_only=True)
class StoreEventLog(Request[None]):
    """Store the whole event log, a file at ``path``, of another node, which has no sync process."""

    node: int
    path: str
    timeout: float


@dataclass(frozen=True, kw_only=True)
class PutRecord(Request[None]):
    """Store the run's state document soon, unless a newer one follows; there is no reply."""

    record: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finish(Request[None]):
    """Store the last record and the end of the event log, then exit."""

    timeout: float
