"""JobPaths: every file name of a job on a target, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from muster.core.attempt import AttemptId

LONGEST_NAME = 255  # bytes of a file name


def check_file_name(name: str) -> str:
    """Return a name that may be a file's or a folder's in a folder of ours.

    :raises ValueError: it would lead elsewhere, be hidden, or be no file name.
    """
    if not name or name.startswith(".") or "/" in name or "\0" in name or len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"{name!r} can't be the name of a file or folder")
    return name


@dataclass(frozen=True, kw_only=True)
class NodePaths:
    """Files of one node of one attempt."""

    root: Path

    @property
    def assignment(self) -> Path:
        """Task of the agent (0600): plan, node, generation, attempt, mesh, deadline."""
        return self.root / "assignment.json"

    @property
    def secrets(self) -> Path:
        """Values for the ranks (0600); read and unlinked by the agent."""
        return self.root / "secrets.json"

    @property
    def access(self) -> Path:
        """Store endpoint and credentials (0600); read by the sync process only, written anew to renew them."""
        return self.root / "access.json"

    @property
    def certificate(self) -> Path:
        """Certificate and key of the mesh (0600), one pair for the whole job."""
        return self.root / "mesh.pem"

    @property
    def events(self) -> Path:
        """The node's append-only event log."""
        return self.root / "events.jsonl"

    @property
    def ranks(self) -> Path:
        """Raw output of every rank, one file each."""
        return self.root / "ranks"

    def rank_log(self, rank: int) -> Path:
        """Raw output of one rank, byte for byte."""
        return self.ranks / f"rank-{rank}.log"

    def metrics(self, rank: int) -> Path:
        """Metrics that a rank logged by ``muster.tracking``, one JSON line each."""
        return self.ranks / f"rank-{rank}.metrics.jsonl"

    @property
    def work(self) -> Path:
        """The ranks' working folder: the snapshot, with outputs, logs and checkpoints in it."""
        return self.root / "work"

    @property
    def outputs(self) -> Path:
        return self.work / "outputs"

    @property
    def logs(self) -> Path:
        return self.work / "logs"

    @property
    def checkpoints(self) -> Path:
        return self.work / "checkpoints"

    @property
    def restore(self) -> Path:
        """Checkpoint files that were committed, until all are there to be put in place."""
        return self.root / "restore"

    @property
    def pinned(self) -> Path:
        """Links (0700) to checkpoint files that are being stored."""
        return self.root / "pinned"

    @property
    def socket(self) -> Path:
        """Socket on which shims report to the agent."""
        return self.root / "agent.sock"

    @property
    def tools(self) -> Path:
        """Programs and scratch folders of a plan's spawner."""
        return self.root / "tools"

    @property
    def cancel(self) -> Path:
        """Cancel request with its reason; read by the agent on SIGTERM and at start."""
        return self.root / "cancel.json"

    @property
    def guardian(self) -> Path:
        """Process id and start time of the guardian."""
        return self.root / "guardian.json"

    @property
    def agent(self) -> Path:
        """Process id and start time of the agent."""
        return self.root / "agent.json"

    @property
    def diagnostics(self) -> Path:
        """Diagnostics of agent, guardian and sync process."""
        return self.root / "agent.log"


@dataclass(frozen=True, kw_only=True)
class BatchPaths:
    """Files beside the node folders of an attempt that a batch engine starts on nodes of its own choice."""

    root: Path

    @property
    def template(self) -> Path:
        """The assignment (0600) without the values that only the nodes know."""
        return self.root / "template.json"

    @property
    def certificate(self) -> Path:
        return self.root / "mesh.pem"

    @property
    def access(self) -> Path:
        """Store endpoint and credentials (0600); removed once the run has ended."""
        return self.root / "access.json"

    @property
    def secrets(self) -> Path:
        """Values for the ranks (0600); removed once the run has ended."""
        return self.root / "secrets.json"

    @property
    def cancel(self) -> Path:
        """Cancel request with its reason, for nodes that are still starting."""
        return self.root / "cancel.json"

    @property
    def script(self) -> Path:
        """The batch script, as it was submitted."""
        return self.root / "batch.sh"

    @property
    def submitted(self) -> Path:
        """Job number in the batch engine."""
        return self.root / "submitted.json"

    @property
    def output(self) -> Path:
        """Output of the batch script and of the nodes' first program."""
        return self.root / "batch.log"

    def leader(self, number: str) -> Path:
        """Address of node 0 for the engine's job of this number, written by node 0."""
        return self.root / f"leader-{number}.json"


@dataclass(frozen=True, kw_only=True)
class JobPaths:
    """Files of one job below a target's root folder."""

    root: Path
    job_id: str

    @property
    def job(self) -> Path:
        return self.root / "jobs" / self.job_id

    @property
    def claim(self) -> Path:
        """Generation, attempt and plan digest: who owns the job."""
        return self.job / "claim.json"

    @property
    def lock(self) -> Path:
        """Lock for reading or changing the claim."""
        return self.job / "claim.lock"

    def attempt(self, generation: int, attempt: int) -> Path:
        return self.job / AttemptId(self.job_id, generation, attempt).folder

    def node(self, generation: int, attempt: int, node: int) -> NodePaths:
        """Files of one node of one attempt."""
        return NodePaths(root=self.attempt(generation, attempt) / f"node-{node}")

    @property
    def claim_chain(self) -> Path:
        """Claims of the job where no lock is available: one file each, named by consecutive numbers."""
        return self.job / "claims"

    def started(self, generation: int) -> Path:
        """Start time of the generation's first attempt on its nodes, for engines with a queue of their own."""
        return self.job / f"g{generation}.started"

    def batch(self, generation: int, attempt: int) -> BatchPaths:
        """Files that the batch job of this attempt reads, also after a restart."""
        return BatchPaths(root=self.attempt(generation, attempt))


@dataclass(frozen=True, kw_only=True)
class HostPaths:
    """Files of a host below Muster's root folder there; the queue lies on the inventory's first host."""

    root: Path

    @classmethod
    def of(cls, root: str) -> HostPaths:
        """Return the files below a folder; ``~`` is the user's home."""
        return cls(root=Path(root).expanduser())

    @property
    def queue(self) -> Path:
        """Gangs that wait for hosts, or hold some."""
        return self.root / "queue.json"

    @property
    def queue_lock(self) -> Path:
        """Lock for reading or changing claims and the queue."""
        return self.root / "queue.lock"

    def job(self, job_id: str) -> JobPaths:
        """Files of one job."""
        return JobPaths(root=self.root, job_id=job_id)
