"""Makes the model version of a manifest, before a registry numbers it."""

from __future__ import annotations

import time
from collections.abc import Mapping

from muster.core.errors import RequestError
from muster.core.manifest import Manifest
from muster.core.model_version import ModelVersion
from muster.registry.contract import check_name


def new_version(
    manifest: Manifest, name: str, path: str, metrics: Mapping[str, float] | None, tags: Mapping[str, str] | None
) -> ModelVersion:
    """Return the version to register, its number still 0.

    :raises RequestError: the name is malformed, or the manifest has no file below ``path``.
    """
    check_name(name)
    kept = manifest.metrics if metrics is None else metrics
    return ModelVersion(
        name=name,
        version=0,
        uri=f"{manifest.uri}/{_existing(manifest, path)}",
        run=manifest.run,
        manifest=manifest.digest(),
        path=path.strip("/"),
        metrics={key: float(value) for key, value in (kept or {}).items()},
        tags={str(key): str(value) for key, value in (tags or {}).items()},  # templates make numbers of texts
        created=time.time(),
    )


def _existing(manifest: Manifest, path: str) -> str:
    """Return the path below which the model's files lie, without slashes at its ends."""
    plain = path.strip("/")
    if not any(file.path == plain or file.path.startswith(plain + "/") for file in manifest.files):
        there = [file.path for file in manifest.files]
        raise RequestError(f"run {manifest.run} has no file below {path!r} to register as a model; it has {there}")
    return plain
