"""Places that run jobs, by the name of their kind."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muster.core.errors import RequestError
from muster.targets.contract import ComputeTarget

KINDS = ("local",)


def open_target(config: Mapping[str, Any] | str | None) -> ComputeTarget:
    """Make a target of its configuration: ``{"type": "local", "root": folder}``; ``"local"`` and None are this machine.

    :raises RequestError: an unknown kind of target, or an unknown field.
    """
    fields = {"type": config or "local"} if not isinstance(config, Mapping) else dict(config)
    kind = fields.pop("type", "local")
    if kind not in KINDS:
        raise RequestError(f"unknown target {kind!r}; known: {', '.join(KINDS)}, names in muster.toml and connections")
    unknown = sorted(set(fields) - {"root", "name"})
    if unknown:
        raise RequestError(f"target {kind!r} has no field {unknown[0]!r}; it takes root")
    from muster.targets.local import LocalTarget

    root = Path(fields.get("root") or default_root()).expanduser().resolve()
    return LocalTarget(root=root, name=fields.get("name") or kind)


def default_root() -> str:
    """Give the folder for jobs and caches of this machine: MUSTER_HOME, else ``~/.muster``."""
    return os.environ.get("MUSTER_HOME") or "~/.muster"
