"""Launch bundle: what a queued attempt is launched with, stored on the first host; and the files of each node made of it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muster.core.codec import canonical
from muster.core.errors import RequestError
from muster.core.paths import NodePaths
from muster.core.plan import JobPlan
from muster.node.assignment import Assignment
from muster.node.host.gang_scheduler import QueueEntry
from muster.targets.claim import Claim
from muster.targets.contract import Submission
from muster.targets.hosts.connection import HostConnection
from muster.targets.hosts.host_files import HostInfo

BUNDLE, ACCESS, SECRETS, CA = "bundle.json", "access.json", "secrets.json", "store-ca.pem"
Files = dict[str, tuple[bytes, int]]


@dataclass(frozen=True, kw_only=True)
class LaunchBundle:
    """Plan and options of an attempt's launch. ``archive``: name of the packed code in the hosts' caches.

    ``earlier``: for an attempt that only commits outputs, each node's folders of earlier attempts, the newest first.
    """

    plan: JobPlan
    target: str
    requested: float
    archive: str = ""
    earlier: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def files_of(cls, submission: Submission, target: str, earlier: tuple[tuple[str, ...], ...]) -> Files:
        """Return the files of a bundle, all of them private."""
        archive = f"snapshots/{submission.archive.name}" if submission.archive else ""
        bundle = cls(
            plan=submission.plan,
            target=target,
            requested=submission.requested,
            archive=archive,
            earlier=earlier,
        )
        files = {BUNDLE: canonical(bundle), ACCESS: canonical(submission.access)}
        if submission.secrets:
            files[SECRETS] = json.dumps(submission.secrets).encode()
        if submission.access.verify:
            files[CA] = _ca_bundle(submission.access.verify)
        return {name: (content, 0o600) for name, content in files.items()}

    def output_folders(self, node: int) -> tuple[str, ...]:
        """Return the folders that may have the outputs of a node's earlier ranks; none for an attempt with ranks of its own."""
        return self.earlier[node] if self.earlier else ()

    @property
    def commits(self) -> bool:
        """Return whether the attempt only commits the outputs of earlier ranks."""
        return bool(self.earlier)


@dataclass(kw_only=True)
class PreparedHost:
    """A host prepared for one node; ``address`` is where the other nodes reach it."""

    connection: HostConnection
    address: str
    info: HostInfo
    interpreter: str
    archive: str


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """All that is known once every host is prepared. ``waited``: seconds in the queue; ``claim_host`` has the claim's file."""

    entry: QueueEntry
    claim: Claim
    bundle: LaunchBundle
    files: Files
    ready: tuple[PreparedHost, ...]
    folders: tuple[str, ...]
    waited: float
    claim_host: str

    def node_files(self) -> list[Files]:
        """Return the files of every node: assignments and paths of the CA bundle differ, all else is the same."""
        from muster.packaging import certificate

        empty = NodePaths(root=Path())
        shared = {name: self.files[name] for name in (SECRETS, CA) if name in self.files}
        shared[empty.certificate.name] = (certificate.make_certificate(), 0o600)
        now = time.time()
        result = []
        for node, folder in enumerate(self.folders):
            own = {empty.assignment.name: canonical(self._assignment(node, now)), empty.access.name: self._access(folder)}
            result.append({**shared, **{name: (content, 0o600) for name, content in own.items()}})
        return result

    def _assignment(self, node: int, now: float) -> Assignment:
        claim, plan, host, allocation = self.claim, self.bundle.plan, self.ready[node], self.entry.allocations[node]
        return claim.assignment(
            plan,
            node,
            requested=self.bundle.requested,
            target=self.bundle.target,
            addresses=tuple(ready.address for ready in self.ready),
            deadline=claim.deadline(plan.limits.max_run_duration) + self.waited,
            submitted=now,
            interpreter=host.interpreter,
            muster_python=host.info.python,
            gpus=allocation.gpus,
            claim=f"{host.info.root}/jobs/{claim.job_id}/claim.json" if allocation.host == self.claim_host else "",
            archive=host.archive if node == 0 else "",
            notes=tuple(f"host {name} was replaced: {reason}" for name, reason in self.entry.excluded.items()),
        )

    def _access(self, folder: str) -> bytes:
        """Return the store's access with the node's path of the CA bundle."""
        access: dict[str, Any] = json.loads(self.files[ACCESS][0])
        return canonical({**access, "verify": f"{folder}/{CA}" if access.get("verify") else ""})


def _ca_bundle(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RequestError(f"the store's CA bundle {path!r} can't be read: {error.strerror}; correct verify") from error
