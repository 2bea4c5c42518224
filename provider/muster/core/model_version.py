"""ModelVersion: a registered manifest under a model's name."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One version of a model. ``uri`` is the URI of its files, ``manifest`` the digest that makes registration idempotent."""

    name: str
    version: int
    uri: str
    run: str
    manifest: str
    path: str = "outputs"
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    created: float = 0.0
