"""ModelRegistry: the operations of every registry that numbers models; knows nothing of training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from muster.core.errors import RequestError
from muster.core.manifest import Manifest
from muster.core.model_version import ModelVersion

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
LATEST = "latest"


class ModelRegistry(Protocol):
    """Models by name, each with versions 1, 2, 3 … that never change. All methods are idempotent.

    :raises RequestError: a name is malformed, or there is no such model or version; the message lists those there are.
    :raises StoreUnavailable: the place where the models are kept is unreachable.
    :raises AccessDenied: that place refuses the credentials.
    """

    def register(
        self,
        manifest: Manifest,
        name: str,
        *,
        path: str = "outputs",
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> ModelVersion:
        """Register the files below ``path`` of a committed run as the next version of a model.

        A manifest that is already registered under this name keeps its first version; also when several processes register it
        at once, and when an earlier call was cut off halfway. ``metrics`` are the run's unless given.

        :raises RequestError: the manifest has no file below ``path``.
        """
        ...

    def get(self, name: str, version: int | str | None = None) -> ModelVersion:
        """Return one version: by number (also as text), by alias, or the newest (``None`` or ``"latest"``)."""
        ...

    def versions(self, name: str) -> list[ModelVersion]:
        """Return all versions of a model, oldest first."""
        ...

    def names(self) -> list[str]:
        """Return the names of all models, in order."""
        ...

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point an alias (``production``) at a version, and no longer at another."""
        ...

    def set_tags(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Add or change tags of a version; its other tags stay."""
        ...


def check_name(name: str) -> str:
    """Return a well-formed name of a model.

    :raises RequestError: the name is malformed.
    """
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise RequestError(f"a model's name has 1 to 200 letters, digits, '.', '_' or '-', got {name!r}")
    return name


def check_alias(alias: str) -> str:
    """Return a well-formed alias, which is not mistakable for a version.

    :raises RequestError: the alias is malformed.
    """
    if not _NAME.fullmatch(alias) or alias.isdigit() or alias == LATEST:
        raise RequestError(f"an alias has letters, digits, '.', '_' or '-', and is no number and not {LATEST!r}, got {alias!r}")
    return alias
