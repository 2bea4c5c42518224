"""MlflowRegistry: models in an MLflow server; a version is made with its source and tags in one request, or not at all.

MLflow can't create on a condition. So a manifest is looked for and registered in its turn, kept by conditional writes in the
run store; should two have it, as one was slow beyond its lease, the lower version counts, and the maker of the higher one, who
is sure to see the lower, deletes his. MLflow alone is asked which version a manifest has.

What a contract row becomes in MLflow:

| here | there |
| --- | --- |
| ``uri`` | ``source``, exactly |
| ``run``, ``manifest``, ``path`` | tags ``muster.run``, ``muster.manifest``, ``muster.path`` |
| ``metrics`` | tag ``muster.metrics``, as JSON, to be read back exactly; and a run with them for MLflow's pages: it is in the
  experiment of the model's name, and the version names it |
| ``tags`` | tags; names that begin with ``muster.`` are refused here, what else MLflow refuses is said as it says it |
| ``aliases`` | aliases; MLflow refuses those with a dot and those like ``v1`` |
| number | MLflow counts: a deleted version leaves a gap |

Models and versions that others made in the server are seen too; what only Muster knows of a version is empty in them.
"""

from __future__ import annotations

import json
import posixpath
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from muster.core import store_keys
from muster.core.errors import RequestError
from muster.core.manifest import Manifest
from muster.core.model_version import ModelVersion
from muster.registry.contract import LATEST, check_alias, check_name
from muster.registry.lease import LEASE, turn
from muster.registry.mlflow_server import MlflowServer, load
from muster.registry.new_version import wanted_version
from muster.store.run_store import RunStore

PREFIX = "muster."
MANIFEST = PREFIX + "manifest"
METRICS = PREFIX + "metrics"
METRICS_AT_ONCE = 1000  # MLflow takes no more
PAGE = 200
LARGEST = 2**31 - 1  # number that MLflow's database takes
MISSING, THERE, WRONG = "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_PARAMETER_VALUE"
NEWEST_FIRST = ("version_number DESC",)


class MlflowRegistry:
    """Models of one MLflow server, their files in a run store. ``lease``: see :mod:`muster.registry.lease`."""

    def __init__(self, server: MlflowServer, run_store: RunStore, lease: float = LEASE) -> None:
        self._server = server
        self._run_store = run_store
        self._lease = lease
        self._lock = threading.Lock()
        self._made: Any = None

    def register(
        self,
        manifest: Manifest,
        name: str,
        *,
        path: str = "outputs",
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> ModelVersion:
        """See :class:`muster.registry.contract.ModelRegistry`."""
        wanted = wanted_version(manifest, name, path, metrics, tags)
        _check_tags(wanted.tags)
        with self._server.explained():
            known = self._first(wanted)
            if known is None:
                with turn(self._run_store.bucket, store_keys.registering(name, wanted.manifest), self._lease):
                    known = self._first(wanted) or self._create(wanted, manifest)
        return known

    def get(self, name: str, version: int | str | None = None) -> ModelVersion:
        """See :class:`muster.registry.contract.ModelRegistry`."""
        check_name(name)
        with self._server.explained():
            number = self._newest(name) if version is None or version == LATEST else version
            found = None if number is None else self._read(name, number)
            if found is None:
                raise self._missing(name, version)
        return _from_mlflow(found, found.aliases)

    def versions(self, name: str) -> list[ModelVersion]:
        """See :class:`muster.registry.contract.ModelRegistry`."""
        check_name(name)
        with self._server.explained():
            found = self._found(name, f"name='{name}'")
            if not found:
                raise self._missing(name, None)
        return found

    def names(self) -> list[str]:
        """See :class:`muster.registry.contract.ModelRegistry`."""
        search = self._store.search_registered_models
        with self._server.explained():
            return sorted(model.name for model in _pages(lambda token: search(max_results=PAGE, page_token=token)))

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """See :class:`muster.registry.contract.ModelRegistry`."""
        check_alias(alias)
        self.get(name, version)
        with self._server.explained():
            self._store.set_registered_model_alias(name, alias, str(version))

    def set_tags(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """See :class:`muster.registry.contract.ModelRegistry`."""
        _check_tags(tags)
        self.get(name, version)
        with self._server.explained():
            for key, value in tags.items():
                self._store.set_model_version_tag(name, str(version), _tag(key, value))

    # -- making versions

    def _first(self, wanted: ModelVersion) -> ModelVersion | None:
        """Give the version that counts for the manifest."""
        versions = self._found(wanted.name, f"name='{wanted.name}' and tags.`{MANIFEST}`='{wanted.manifest}'")
        return versions[0] if versions else None

    def _create(self, wanted: ModelVersion, manifest: Manifest) -> ModelVersion:
        _but(THERE, lambda: self._store.create_registered_model(wanted.name))
        tags = [_tag(key, value) for key, value in {**wanted.tags, **_our_tags(wanted, manifest)}.items()]
        run, said = self._run_of(wanted), _description(manifest)
        made = _from_mlflow(self._store.create_model_version(wanted.name, wanted.uri, run, tags, description=said), ())
        first = self._first(wanted) or made
        if first.version < made.version:  # another had the turn as well, and was first
            self._store.delete_model_version(made.name, str(made.version))
        return first

    def _run_of(self, wanted: ModelVersion) -> str:
        """Make the run that shows a version's metrics, or find the one of a call that was cut off; give its id."""
        mlflow, tracking = load("mlflow.entities"), self._server.tracking_store()
        experiment = self._experiment(wanted.name)
        mine = f"tags.`{MANIFEST}` = '{wanted.manifest}'"
        found = tracking.search_runs([experiment], mine, mlflow.ViewType.ACTIVE_ONLY, max_results=1)
        began = int(wanted.created * 1000)
        if found:
            run, began = found[0].info.run_id, found[0].info.start_time
        else:
            tags = [mlflow.RunTag(MANIFEST, wanted.manifest), mlflow.RunTag(PREFIX + "run", wanted.run)]
            run = tracking.create_run(experiment, "muster", began, tags, wanted.run).info.run_id
        points = [mlflow.Metric(_metric_name(key), value, began, 0) for key, value in wanted.metrics.items()]
        for start in range(0, len(points), METRICS_AT_ONCE):
            tracking.log_batch(run, points[start : start + METRICS_AT_ONCE], [], [])
        tracking.update_run_info(run, mlflow.RunStatus.FINISHED, began, None)
        return str(run)

    def _experiment(self, name: str) -> str:
        """Give the id of the experiment that has the model's name; made if there is none."""
        tracking = self._server.tracking_store()
        found = tracking.get_experiment_by_name(name)
        if found is None:
            _but(THERE, lambda: tracking.create_experiment(name))
            found = tracking.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage != "active":
            raise RequestError(
                f"mlflow server {self._server.tracking_uri}: experiment {name!r}, which shows its metrics, was deleted; "
                "restore it (or remove it for good with mlflow gc)"
            )
        return str(found.experiment_id)

    # -- asking

    @property
    def _store(self) -> Any:
        """MLflow's client of the model registry; the server is tried once before its first use."""
        with self._lock:
            if self._made is None:
                self._server.check()
                self._made = self._server.model_store()
            return self._made

    def _found(self, name: str, wish: str) -> list[ModelVersion]:
        """Give the versions of a model that fit, oldest first. What is searched for has no aliases, so the model is asked."""
        found = sorted(self._search(wish), key=lambda version: int(version.version))
        if not found:
            return []
        aliases: dict[str, str] = self._store.get_registered_model(name).aliases
        return [_from_mlflow(f, [alias for alias, number in aliases.items() if int(number) == int(f.version)]) for f in found]

    def _search(self, wish: str, order: tuple[str, ...] = (), most: int = PAGE) -> Iterator[Any]:
        search = self._store.search_model_versions
        return _pages(lambda token: search(wish, max_results=most, order_by=list(order), page_token=token))

    def _newest(self, name: str) -> int | None:
        newest = next(self._search(f"name='{name}'", NEWEST_FIRST, 1), None)
        return None if newest is None else int(newest.version)

    def _read(self, name: str, version: int | str) -> Any:
        """Give MLflow's version of that number or alias; None if there is none."""
        if isinstance(version, int) or version.isdigit():
            known = int(version) <= LARGEST
            return _but(MISSING, lambda: self._store.get_model_version(name, str(int(version)))) if known else None
        return _but((MISSING, WRONG), lambda: self._store.get_model_version_by_alias(name, version))  # it says both

    def _missing(self, name: str, version: int | str | None) -> RequestError:
        newest = self._newest(name)
        if newest is None:
            there = ", ".join(self.names()) or "none"
            return RequestError(f"there is no model {name!r} in {self._server.tracking_uri}; there are: {there}")
        if isinstance(version, int) or str(version).isdigit():
            return RequestError(f"model {name!r} has no version {version}; its newest version is {newest}")
        aliases = ", ".join(sorted(self._store.get_registered_model(name).aliases)) or "none"
        return RequestError(f"model {name!r} has no alias {version!r} (aliases: {aliases}); its newest version is {newest}")


def _pages(ask: Callable[[Any], Any]) -> Iterator[Any]:
    """Yield what is found, page by page."""
    token = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return


def _but(codes: tuple[str, ...] | str, ask: Callable[[], Any]) -> Any:
    """Give the answer; None if the server says such a code."""
    try:
        return ask()
    except load("mlflow.exceptions").MlflowException as error:
        if error.error_code not in ((codes,) if isinstance(codes, str) else codes):
            raise
    return None


def _tag(key: str, value: str) -> Any:
    return load("mlflow.entities.model_registry").ModelVersionTag(key, value)


def _check_tags(tags: Mapping[str, str]) -> None:
    taken = sorted(key for key in tags if key.startswith(PREFIX))
    if taken:
        raise RequestError(f"tags: names that begin with {PREFIX!r} are Muster's own in MLflow, got {taken[0]!r}")


def _our_tags(wanted: ModelVersion, manifest: Manifest) -> dict[str, str]:
    known = {
        "run": wanted.run,
        "generation": str(manifest.generation),
        "attempt": str(manifest.attempt),
        "manifest": wanted.manifest,
        "path": wanted.path,
        "snapshot": manifest.snapshot,
        "environment": manifest.environment,
        "metrics": json.dumps(wanted.metrics, sort_keys=True, ensure_ascii=False),
    }
    return {PREFIX + key: value for key, value in known.items() if value}


def _description(manifest: Manifest) -> str:
    size = sum(file.size for file in manifest.files)
    return f"Muster run {manifest.run}, generation {manifest.generation}: {len(manifest.files)} files, {size:,} bytes"


def _metric_name(key: str) -> str:
    """Give the name by which MLflow's run takes a metric: what it refuses becomes ``_``."""
    name = re.sub(r"[^\w.\- /]", "_", key)[:250]
    plain = posixpath.normpath(name) == name and not name.startswith(("/", ".")) and name.strip() == name
    return name if plain else re.sub(r"[^\w\-]", "_", name) or "_"


def _from_mlflow(found: Any, aliases: Iterable[str]) -> ModelVersion:
    tags = dict(found.tags)
    ours = {key.removeprefix(PREFIX): tags.pop(key) for key in sorted(tags) if key.startswith(PREFIX)}
    return ModelVersion(
        name=found.name,
        version=int(found.version),
        uri=found.source or "",
        run=ours.get("run", found.run_id or ""),
        manifest=ours.get("manifest", ""),
        path=ours.get("path", ""),
        metrics=json.loads(ours.get("metrics", "{}")),
        tags=tags,
        aliases=tuple(sorted(aliases)),
        created=found.creation_timestamp / 1000,
    )
