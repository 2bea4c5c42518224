"""Every key of the run store; docs/store.md describes each and whether it ever changes."""

from __future__ import annotations

from dataclasses import dataclass

LAYOUT_VERSION = 1
PROBE = "check.json"  # written by the check for write permission
INDEX = "index/"
MODELS = "models/"
_LATEST_TIME = 9_999_999_999  # counted down from, so that the newest comes first in a listing


@dataclass(frozen=True, kw_only=True)
class RunKeys:
    """Keys of one generation of one run, relative to the store's prefix."""

    job_id: str
    generation: int

    @property
    def root(self) -> str:
        """Prefix of everything of this generation."""
        return f"runs/{self.job_id}/g{self.generation}"

    @property
    def record(self) -> str:
        """The run's small state document; overwritten while the run lives."""
        return f"{self.root}/run.json"

    @property
    def manifest(self) -> str:
        """The commit; written once, last, on condition that it isn't there."""
        return f"{self.root}/manifest.json"

    def segment(self, attempt: int, node: int, offset: int) -> str:
        """A sealed piece of a node's event log, named by its first byte's offset; never changes."""
        return f"{self.root}/events/a{attempt}/n{node}/{offset:016d}.jsonl"

    def tail(self, attempt: int, node: int) -> str:
        """The unsealed end of a node's event log; its first line lists the sealed segments."""
        return f"{self.root}/events/a{attempt}/n{node}/tail.jsonl"

    def file(self, path: str) -> str:
        """An output or log file, under its own name."""
        return f"{self.root}/{path}"

    def checkpoint_blob(self, node: int, sha256: str) -> str:
        """A node's checkpoint file by content; never changes. Not shared with other nodes, so that the node can delete it."""
        return f"{self.root}/checkpoint-blobs/n{node}/{sha256}"

    def checkpoint_marker(self, node: int) -> str:
        """A node's last committed set of checkpoint files; overwritten as one."""
        return f"{self.root}/checkpoints/n{node}.json"


def latest_generation(job_id: str) -> str:
    """Document that names the newest generation of a run."""
    return f"runs/{job_id}/latest.json"


def run_index(created: float, job_id: str) -> str:
    """Empty entry that lists a run by the time it was created, newest first; never changes."""
    return f"index/{_LATEST_TIME - int(created):010d}/{job_id}"


def run_of_index(key: str) -> str:
    """Return the run that an index entry lists."""
    return key.rpartition("/")[2]


def snapshot(digest: str) -> str:
    """A code snapshot by content; never changes."""
    return f"snapshots/{digest.removeprefix('sha256:')}.tar.gz"


def model_version(name: str, version: int) -> str:
    """One version of a model; written once, on condition that it isn't there."""
    return f"models/{name}/versions/{version:08d}.json"


def model_versions(name: str) -> str:
    """Prefix of all versions of a model."""
    return f"models/{name}/versions/"


def model_digest(name: str, manifest: str) -> str:
    """Version of a manifest under a model's name; makes registration idempotent."""
    return f"models/{name}/manifests/{manifest.removeprefix('sha256:')}.json"


def model_labels(name: str) -> str:
    """Aliases and tags of a model's versions; changed by conditional writes."""
    return f"models/{name}/labels.json"


def registering(name: str, manifest: str) -> str:
    """Lease for the registration of a manifest in another registry; changed by conditional writes."""
    return f"registering/{name}/{manifest.removeprefix('sha256:')}.json"


def split_uri(uri: str) -> tuple[str, str]:
    """Split ``s3://bucket/prefix`` into bucket and prefix, the prefix without slashes at its ends.

    :raises ValueError: not an s3 URI with a bucket.
    """
    scheme, separator, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not separator or not bucket:
        raise ValueError(f"store must look like s3://bucket/prefix, got {uri!r}")
    return bucket, prefix.strip("/")
