"""StoreRegistry: models in the run store itself, with nothing to install; conditional writes number the versions.

A version object is the truth; a digest object beside it names the version of a manifest. A process that creates version n + 1
first writes the digest object of version n, if it is missing. So at most the newest version lacks one, wherever a process was
cut off, and a manifest is new if the newest version was read and then, in this order, no digest object was found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from muster.core import store_keys
from muster.core.codec import from_data, to_data
from muster.core.errors import RequestError
from muster.core.manifest import Manifest
from muster.core.model_version import ModelVersion
from muster.core.retry import Backoff, retry
from muster.registry.contract import LATEST, check_alias, check_name
from muster.registry.new_version import new_version
from muster.store.run_store import RunStore
from muster.store.s3.errors import NotFound, PreconditionFailed

REGISTRY_VERSION = 1
READS_AT_ONCE = 8
LABEL_TRIES = 50


class StoreRegistry:
    """Models of one run store."""

    def __init__(self, run_store: RunStore) -> None:
        self._store = run_store

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
        number = self._known(version) or self._number(version)
        return self.get(name, number)

    def get(self, name: str, version: int | str | None = None) -> ModelVersion:
        """See :class:`muster.registry.contract.ModelRegistry`."""
        check_name(name)
        labels = self._labels(name)[0]
        if version is None or version == LATEST:
            number = self._newest(name)
        elif isinstance(version, int) or version.isdigit():
            number = int(version)
        else:
            number = self._aliased(name, version, labels)
        found = self._read(name, number)
        if found is None:
            raise self._no_version(name, f"version {number}")
        return _labelled(found, labels)

    def versions(self, name: str) -> list[ModelVersion]:
        """See :class:`muster.registry.contract.ModelRegistry`."""
        numbers = self._numbers(check_name(name))
        if not numbers:
            raise self._no_model(name)
        labels = self._labels(name)[0]
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            found = pool.map(lambda number: self._read(name, number), numbers)
            return [_labelled(version, labels) for version in found if version is not None]

    def names(self) -> list[str]:
        """See :class:`muster.registry.contract.ModelRegistry`."""
        return sorted(key.rstrip("/").rpartition("/")[2] for key in self._store.bucket.keys(store_keys.MODELS, folders=True))

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """See :class:`muster.registry.contract.ModelRegistry`."""
        check_alias(alias)
        self.get(name, version)
        self._change_labels(name, lambda labels: labels["aliases"].update({alias: version}))

    def set_tags(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """See :class:`muster.registry.contract.ModelRegistry`."""
        self.get(name, version)
        self._change_labels(name, lambda labels: labels["tags"].setdefault(str(version), {}).update(tags))

    # -- numbering

    def _known(self, version: ModelVersion) -> int:
        """Return the version that the manifest's digest object names; 0 if there is none."""
        found = self._store.bucket.get_json(store_keys.model_digest(version.name, version.manifest))
        return int(found[0]["version"]) if found else 0

    def _number(self, version: ModelVersion) -> int:
        """Return the number of the manifest's version; create the next one if there is none."""
        last = max(self._numbers(version.name), default=0)
        while True:
            newest = self._read(version.name, last) if last else None
            if newest is not None:
                self._write_digest(newest)
                if newest.manifest == version.manifest:
                    return newest.version
            known = self._known(version)
            if known:
                return known
            if self._create(replace(version, version=last + 1)):
                return last + 1
            last += 1  # another process created it first: it is the newest now

    def _create(self, version: ModelVersion) -> bool:
        document = {"layout": REGISTRY_VERSION, **to_data(version)}
        try:
            self._store.bucket.put_json(store_keys.model_version(version.name, version.version), document, if_absent=True)
        except PreconditionFailed:
            return False
        self._write_digest(version)
        return True

    def _write_digest(self, version: ModelVersion) -> None:
        document = {"layout": REGISTRY_VERSION, "version": version.version}
        try:
            self._store.bucket.put_json(store_keys.model_digest(version.name, version.manifest), document, if_absent=True)
        except PreconditionFailed:
            pass  # it exists, and has the same content

    # -- reading

    def _numbers(self, name: str) -> list[int]:
        keys = self._store.bucket.keys(store_keys.model_versions(name))
        return [int(key.rpartition("/")[2].removesuffix(".json")) for key in keys]

    def _newest(self, name: str) -> int:
        numbers = self._numbers(name)
        if not numbers:
            raise self._no_model(name)
        return numbers[-1]

    def _read(self, name: str, number: int) -> ModelVersion | None:
        found = self._store.bucket.get_json(store_keys.model_version(name, number))
        return None if found is None else from_data(ModelVersion, found[0])

    def _aliased(self, name: str, alias: str, labels: dict[str, Any]) -> int:
        if alias not in labels["aliases"]:
            raise self._no_version(name, f"alias {alias!r} (aliases: {', '.join(sorted(labels['aliases'])) or 'none'})")
        return int(labels["aliases"][alias])

    def _no_version(self, name: str, what: str) -> RequestError:
        numbers = self._numbers(name)
        if not numbers:
            return self._no_model(name)
        return RequestError(f"model {name!r} has no {what}; its newest version is {numbers[-1]}")

    def _no_model(self, name: str) -> RequestError:
        return RequestError(
            f"there is no model {name!r} in store {self._store.uri}; there are: {', '.join(self.names()) or 'none'}"
        )

    # -- labels

    def _labels(self, name: str) -> tuple[dict[str, Any], str]:
        found = self._store.bucket.get_json(store_keys.model_labels(name))
        return found if found else ({"layout": REGISTRY_VERSION, "aliases": {}, "tags": {}}, "")

    def _change_labels(self, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        def change_once() -> None:
            labels, etag = self._labels(name)
            change(labels)
            self._store.bucket.put_json(store_keys.model_labels(name), labels, if_match=etag, if_absent=not etag)

        lost_race = (PreconditionFailed, NotFound)
        try:
            retry(change_once, lost_race, Backoff(0.05, 0.05, jitter=(0.0, 2.0)), tries=LABEL_TRIES)
        except lost_race:
            text = f"store {self._store.uri}: the labels of model {name!r} are changed by others all the time; try again"
            raise PreconditionFailed(text) from None


def _labelled(version: ModelVersion, labels: dict[str, Any]) -> ModelVersion:
    aliases = tuple(sorted(alias for alias, number in labels["aliases"].items() if number == version.version))
    return replace(version, aliases=aliases, tags={**version.tags, **labels["tags"].get(str(version.version), {})})
