"""Manifest: every file of a run with size and sha256; written last, its presence is the commit."""

from __future__ import annotations

from dataclasses import dataclass

from muster.core.codec import digest, from_data, to_data

MANIFEST_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ManifestFile:
    """One kept file. ``path`` is relative to the run's root (``outputs/model.pt``), ``key`` its object below the prefix.

    ``size`` in bytes, ``sha256`` in hex. ``node`` wrote it; ``beside`` names the path it lost to a lower node, if any.
    """

    path: str
    size: int
    sha256: str
    key: str
    node: int = 0
    beside: str = ""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The committed result of a run. ``uri`` is ``s3://bucket/prefix/runs/…`` of the run's generation.

    ``missing`` are the nodes of an elastic run that were lost and not there at its end: files of theirs are not in it.
    """

    run: str
    generation: int
    attempt: int
    uri: str
    files: tuple[ManifestFile, ...]
    snapshot: str = ""
    environment: str = ""
    metrics: dict[str, float] | None = None
    missing: tuple[int, ...] = ()
    version: int = MANIFEST_VERSION

    def digest(self) -> str:
        """Return ``sha256:<hex>`` of the manifest; the identity of a registered model."""
        seen = to_data(from_data(Manifest, to_data(self)))  # as a reader parses it: a metric logged as 1 is 1.0
        if not self.missing:
            del seen["missing"]  # as releases that did not know it counted
        return digest(seen)

    def file(self, path: str) -> ManifestFile:
        """Return the file of that path.

        :raises KeyError: no such file; the message lists those there are.
        """
        for entry in self.files:
            if entry.path == path:
                return entry
        raise KeyError(f"{path!r} is not in the run's manifest; it has {[f.path for f in self.files]}")
