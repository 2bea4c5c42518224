"""The assignment: what a target hands to the agents of one attempt; one file per node, the same but for ``node``."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

from muster.core.attempt import AttemptId
from muster.core.codec import from_data
from muster.core.plan import JobPlan

ASSIGNMENT_VERSION = 1
LEAST_JOIN_TIMEOUT = 20.0  # seconds


def loopback_address(job_id: str, node: int) -> str:
    """Return a node's own address in 127/8, so that jobs of one machine do not meet on the same ports."""
    seed = hashlib.sha256(job_id.encode()).digest()
    return f"127.{1 + seed[0] % 254}.{seed[1]}.{1 + node % 254}"


@dataclass(frozen=True, kw_only=True)
class AttemptRecord:
    """Record of an ended attempt: times in seconds since the epoch, end state and verdict as data."""

    attempt: int
    started: float = 0.0
    ended: float = 0.0
    state: str = ""
    verdict: dict[str, object] | None = None


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One node's part of an attempt.

    ``addresses``: every node's address on the training network, "" where only the node itself knows. ``deadline``: seconds
    since the epoch. ``gpus``: devices that this node may use. ``interpreter``: the environment's Python; ``muster_python``
    has boto3 for the sync process. ``claim``: the claim file, "" if this node can't see it. ``archive``: the packed code on
    this node, "" if none. ``commit_only``: the ranks have completed in this attempt; only store what they left. ``notes``: what
    the target has to say of this attempt, which node 0 logs (a host that was replaced, and why). ``deadline_reason``:
    whose limit the deadline is, "" for the plan's own. ``term_timeout``: seconds that the reason for a SIGTERM may come late.
    """

    job_id: str
    generation: int
    attempt: int
    node: int
    target: str
    store: str
    plan: JobPlan
    plan_digest: str
    addresses: tuple[str, ...]
    deadline: float
    requested: float
    submitted: float
    interpreter: str
    muster_python: str
    gpus: tuple[str, ...] = ()
    claim: str = ""
    archive: str = ""
    history: tuple[AttemptRecord, ...] = ()
    commit_only: bool = False
    notes: tuple[str, ...] = ()
    deadline_reason: str = ""
    term_timeout: float = 0.0
    version: int = ASSIGNMENT_VERSION

    @classmethod
    def read(cls, path: Path) -> Assignment:
        """Read the assignment file of a node."""
        return from_data(cls, json.loads(path.read_text(encoding="utf-8")))

    @property
    def id(self) -> AttemptId:
        """Return the attempt's name."""
        return AttemptId(self.job_id, self.generation, self.attempt)

    def join_timeout(self, *, was_restarted: bool = False) -> float:
        """Return the seconds from now that the nodes have to join; some are left however wrong this node's clock is.

        ``was_restarted``: this node was here before, so that the others must be there already.
        """
        limit = LEAST_JOIN_TIMEOUT if was_restarted else self.plan.limits.mesh
        return min(max(self.submitted + limit - time.time(), LEAST_JOIN_TIMEOUT), limit)

    @property
    def resumes(self) -> tuple[str, int]:
        """The run and generation whose committed checkpoints are put in place; ("", 0) for none."""
        if self.attempt > 1:
            return self.job_id, self.generation
        return self.plan.resume_from, 0
