"""The registries that models are registered in, by type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from muster.core.errors import RequestError

if TYPE_CHECKING:
    from muster.registry.contract import ModelRegistry
    from muster.store.run_store import RunStore


def _store(config: Mapping[str, Any], run_store: RunStore) -> ModelRegistry:
    from muster.registry.store_registry import StoreRegistry

    unknown = sorted(set(config) - {"type"})
    if unknown:
        raise RequestError(f"registry: type store has no field {unknown[0]!r}; the models lie in the run store itself")
    return StoreRegistry(run_store)


def _mlflow(config: Mapping[str, Any], run_store: RunStore) -> ModelRegistry:
    from muster.registry.mlflow_registry import MlflowRegistry
    from muster.registry.mlflow_server import MlflowServer

    return MlflowRegistry(MlflowServer.from_fields(config), run_store)


REGISTRIES: dict[str, Callable[[Mapping[str, Any], RunStore], ModelRegistry]] = {"store": _store, "mlflow": _mlflow}


def open_registry(config: str | Mapping[str, Any], run_store: RunStore) -> ModelRegistry:
    """Return a registry for models whose files lie in ``run_store``, by its type or by a configuration with a ``type``.

    No request is sent yet, and mlflow not imported.

    :raises RequestError: there is no such type, or the configuration is malformed.
    """
    fields = {"type": config} if isinstance(config, str) else config
    kind = fields.get("type")
    if kind not in REGISTRIES:
        raise RequestError(f"unknown registry {kind!r}; it is one of {', '.join(sorted(REGISTRIES))}")
    return REGISTRIES[kind](fields, run_store)
