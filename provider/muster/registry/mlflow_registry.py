"""MlflowRegistry: models in an MLflow server; a version is made with its source and tags in one request, or not at all.

MLflow has no conditional create. So a manifest is looked up and registered under a lease in the run store. If two processes
hold it, as one was slower than the lease lasts, the lower version counts, and the creator of the higher one, which is sure to
see the lower, deletes its own. Only MLflow is asked which version a manifest has.

What a contract row becomes in MLflow:

| Muster | MLflow |
| --- | --- |
| ``uri`` | ``source``, exactly |
| ``run``, ``manifest``, ``path`` | tags ``muster.run``, ``muster.manifest``, ``muster.path`` |
| ``metrics`` | tag ``muster.metrics``, as JSON, to be read back exactly; and a run with them for MLflow's pages: it is in the
  experiment of the model's name, and the version names it |
| ``tags`` | tags; names that begin with ``muster.`` are refused, and MLflow's other refusals are reported in its words |
| ``aliases`` | aliases; MLflow refuses those with a dot and those like ``v1`` |
| number | MLflow counts: a deleted version leaves a gap |

Models and versions that others created in the server are listed too, without what only Muster records.
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
from muster.registry.lease import DURATION, Lease
from muster.registry.mlflow_server import MlflowServer, load
from muster.registry.new_version import new_version
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

    def __init__(self, server: MlflowServer, run_store: RunStore, lease: float = DURATION) -> None:
        self._server = server
        self._run_store = run_store
        self._lease = lease
        self._lock = threading.Lock()
        self._client: Any = None

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
        version = new_version(manifest, name, path, metrics, tags)
        _check_tags(version.tags)
        with self._server.explained():
            known = self._registered(version)
            if known is None:
                with Lease(self._run_store.bucket, store_keys.registering(name, version.manifest), self._lease):
                    known = self._registered(version) or self._create(version, manifest)
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

    # -- creating versions

    def _registered(self, version: ModelVersion) -> ModelVersion | None:
        """Return the version that counts for the manifest."""
        versions = self._found(version.name, f"name='{version.name}' and tags.`{MANIFEST}`='{version.manifest}'")
        return versions[0] if versions else None

    def _create(self, version: ModelVersion, manifest: Manifest) -> ModelVersion:
        _unless(THERE, lambda: self._store.create_registered_model(version.name))
        tags = [_tag(key, value) for key, value in {**version.tags, **_muster_tags(version, manifest)}.items()]
        run, description = self._run_of(version), _description(manifest)
        created = _from_mlflow(
            self._store.create_model_version(version.name, version.uri, run, tags, description=description), ()
        )
        first = self._registered(version) or created
        if first.version < created.version:  # another process held the lease as well, and was first
            self._store.delete_model_version(created.name, str(created.version))
        return first

    def _run_of(self, version: ModelVersion) -> str:
        """Create the run that shows a version's metrics, or find the one of a call that was cut off; return its id."""
        mlflow, tracking = load("mlflow.entities"), self._server.tracking_store()
        experiment = self._experiment(version.name)
        same_manifest = f"tags.`{MANIFEST}` = '{version.manifest}'"
        found = tracking.search_runs([experiment], same_manifest, mlflow.ViewType.ACTIVE_ONLY, max_results=1)
        began = int(version.created * 1000)
        if found:
            run, began = found[0].info.run_id, found[0].info.start_time
        else:
            tags = [mlflow.RunTag(MANIFEST, version.manifest), mlflow.RunTag(PREFIX + "run", version.run)]
            run = tracking.create_run(experiment, "muster", began, tags, version.run).info.run_id
        points = [mlflow.Metric(_metric_name(key), value, began, 0) for key, value in version.metrics.items()]
        for start in range(0, len(points), METRICS_AT_ONCE):
            tracking.log_batch(run, points[start : start + METRICS_AT_ONCE], [], [])
        tracking.update_run_info(run, mlflow.RunStatus.FINISHED, began, None)
        return str(run)

    def _experiment(self, name: str) -> str:
        """Return the id of the experiment that has the model's name; create it if there is none."""
        tracking = self._server.tracking_store()
        found = tracking.get_experiment_by_name(name)
        if found is None:
            _unless(THERE, lambda: tracking.create_experiment(name))
            found = tracking.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage != "active":
            raise RequestError(
                f"mlflow server {self._server.tracking_uri}: experiment {name!r}, which shows its metrics, was deleted; "
                "restore it (or remove it for good with mlflow gc)"
            )
        return str(found.experiment_id)

    # -- reading

    @property
    def _store(self) -> Any:
        """MLflow's client of the model registry; the server is checked before its first use."""
        with self._lock:
            if self._client is None:
                self._server.check()
                self._client = self._server.model_store()
            return self._client

    def _found(self, name: str, query: str) -> list[ModelVersion]:
        """Return the versions of a model that match, oldest first; their aliases are the model's, as a search returns none."""
        found = sorted(self._search(query), key=lambda version: int(version.version))
        if not found:
            return []
        aliases: dict[str, str] = self._store.get_registered_model(name).aliases
        return [_from_mlflow(f, [alias for alias, number in aliases.items() if int(number) == int(f.version)]) for f in found]

    def _search(self, query: str, order: tuple[str, ...] = (), most: int = PAGE) -> Iterator[Any]:
        search = self._store.search_model_versions
        return _pages(lambda token: search(query, max_results=most, order_by=list(order), page_token=token))

    def _newest(self, name: str) -> int | None:
        newest = next(self._search(f"name='{name}'", NEWEST_FIRST, 1), None)
        return None if newest is None else int(newest.version)

    def _read(self, name: str, version: int | str) -> Any:
        """Return MLflow's version of that number or alias; None if there is none."""
        if isinstance(version, int) or version.isdigit():
            known = int(version) <= LARGEST
            return _unless(MISSING, lambda: self._store.get_model_version(name, str(int(version)))) if known else None
        return _unless(
            (MISSING, WRONG), lambda: self._store.get_model_version_by_alias(name, version)
        )  # MLflow answers with either

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
    """Yield the items of all pages."""
    token = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return


def _unless(codes: tuple[str, ...] | str, ask: Callable[[], Any]) -> Any:
    """Return the answer; None if the server fails with one of the codes."""
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


def _muster_tags(version: ModelVersion, manifest: Manifest) -> dict[str, str]:
    known = {
        "run": version.run,
        "generation": str(manifest.generation),
        "attempt": str(manifest.attempt),
        "manifest": version.manifest,
        "path": version.path,
        "snapshot": manifest.snapshot,
        "environment": manifest.environment,
        "metrics": json.dumps(version.metrics, sort_keys=True, ensure_ascii=False),
    }
    return {PREFIX + key: value for key, value in known.items() if value}


def _description(manifest: Manifest) -> str:
    size = sum(file.size for file in manifest.files)
    return f"Muster run {manifest.run}, generation {manifest.generation}: {len(manifest.files)} files, {size:,} bytes"


def _metric_name(key: str) -> str:
    """Return a metric's name as MLflow accepts it: what MLflow refuses becomes ``_``."""
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
