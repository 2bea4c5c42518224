"""ModelRegistry: what every place that numbers models must offer; knows nothing of training."""

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
    """Models by name, each with versions 1, 2, 3 … that never change. All methods may be called again.

    :raises RequestError: a name is not one, or there is no such model or version; the message lists those there are.
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
        """Make the files below ``path`` of a committed run the next version of a model.

        A manifest that is registered under this name already keeps its version, as it was registered first; also when several
        register it at once, and when an earlier call was cut off halfway. ``metrics`` are the run's unless given.

        :raises RequestError: the manifest has no file below ``path``.
        """
        ...

    def get(self, name: str, version: int | str | None = None) -> ModelVersion:
        """Give one version: by number (also as text), by alias, or the newest (``None`` or ``"latest"``)."""
        ...

    def versions(self, name: str) -> list[ModelVersion]:
        """Give all versions of a model, oldest first."""
        ...

    def names(self) -> list[str]:
        """Give the names of all models, in order."""
        ...

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Let an alias (``production``) name a version, and no longer another."""
        ...

    def set_tags(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Add tags to a version, or change them; others stay."""
        ...


def check_name(name: str) -> str:
    """Give a model's name back if it is one.

    :raises RequestError: it is not.
    """
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise RequestError(f"a model's name has 1 to 200 letters, digits, '.', '_' or '-', got {name!r}")
    return name


def check_alias(alias: str) -> str:
    """Give an alias back if it is one, and can't be taken for a version.

    :raises RequestError: it is not.
    """
    if not _NAME.fullmatch(alias) or alias.isdigit() or alias == LATEST:
        raise RequestError(f"an alias has letters, digits, '.', '_' or '-', and is no number and not {LATEST!r}, got {alias!r}")
    return alias
