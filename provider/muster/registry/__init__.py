"""Where models are registered: the line of registries, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from muster.core.errors import RequestError

if TYPE_CHECKING:
    from muster.registry.contract import ModelRegistry
    from muster.store.run_store import RunStore


def _store(run_store: RunStore) -> ModelRegistry:
    from muster.registry.store_registry import StoreRegistry

    return StoreRegistry(run_store)


REGISTRIES: dict[str, Callable[[RunStore], ModelRegistry]] = {"store": _store}


def open_registry(kind: str, run_store: RunStore) -> ModelRegistry:
    """Give the registry of a kind, for models whose files lie in ``run_store``.

    :raises RequestError: there is no such kind.
    """
    if kind not in REGISTRIES:
        raise RequestError(f"unknown registry {kind!r}; it is one of {', '.join(sorted(REGISTRIES))}")
    return REGISTRIES[kind](run_store)
