"""What every model registry must do, whichever it is."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from muster.core import store_keys
from muster.core.errors import RequestError
from muster.core.manifest import Manifest, ManifestFile
from muster.core.store_access import StoreAccess
from muster.registry import REGISTRIES, open_registry
from muster.registry.contract import ModelRegistry
from muster.store.run_store import RunStore
from muster.store.s3.errors import AccessDenied, StoreUnavailable
from store_server import Store

Open = Callable[[], ModelRegistry]
Config = dict[str, Any]


@pytest.fixture(params=sorted(REGISTRIES))
def config(request: pytest.FixtureRequest) -> Config:
    """Return the configuration of a registry that has no models; every type of registry needs a line here."""
    of_type: dict[str, Callable[[], Config]] = {
        "store": lambda: {"type": "store"},
        "mlflow": lambda: request.getfixturevalue("mlflow_server").config,
    }
    return of_type[request.param]()


@pytest.fixture
def open_one(config: Config, store: Store) -> Open:
    """Return a way to open the registry, as another process would."""
    return lambda: open_registry(config, store.open())


@pytest.fixture
def registry(open_one: Open) -> ModelRegistry:
    return open_one()


def manifest(number: int, metrics: dict[str, float] | None = None) -> Manifest:
    """Return a manifest that differs from those of other numbers."""
    file = ManifestFile(path="outputs/model.pt", size=number, sha256=f"{number:064x}", key="k")
    uri = f"s3://bucket/p/runs/run-{number}/g1"
    return Manifest(run=f"run-{number}", generation=1, attempt=1, uri=uri, files=(file,), metrics=metrics)


def register_in_process(uri: str, access: StoreAccess, config: Config, number: int) -> int:
    return open_registry(config, RunStore(uri, access)).register(manifest(number), "digits").version


def test_versions_count_up_and_keep_what_they_were_registered_with(registry: ModelRegistry) -> None:
    first = registry.register(manifest(1, {"accuracy": 1, "loss": 0.5}), "digits", tags={"by": "ünï $x"})
    second = registry.register(manifest(2), "digits", path="outputs/model.pt", metrics={"accuracy": 0.9})
    assert (first.version, second.version) == (1, 2)
    assert registry.versions("digits") == [first, second]
    assert registry.names() == ["digits"]
    assert (first.name, first.run, first.uri) == ("digits", "run-1", "s3://bucket/p/runs/run-1/g1/outputs")
    assert (first.metrics, first.tags, first.aliases) == ({"accuracy": 1.0, "loss": 0.5}, {"by": "ünï $x"}, ())
    assert (second.path, second.metrics) == ("outputs/model.pt", {"accuracy": 0.9})
    assert first.manifest == manifest(1, {"accuracy": 1, "loss": 0.5}).digest()
    assert second.created >= first.created > 0


def test_the_same_manifest_keeps_its_version(registry: ModelRegistry, open_one: Open) -> None:
    first = registry.register(manifest(1), "digits")
    registry.register(manifest(2), "digits")
    assert open_one().register(manifest(1), "digits", tags={"other": "tag"}) == first
    assert registry.register(manifest(1), "another.name").version == 1
    assert [version.version for version in registry.versions("digits")] == [1, 2]


def test_one_manifest_registered_by_many_at_once_gets_one_version(open_one: Open) -> None:
    registries = [open_one() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda registry: registry.register(manifest(1), "digits").version, registries))
    assert versions == [1] * 8
    assert len(registries[0].versions("digits")) == 1


def test_manifests_registered_at_once_get_consecutive_versions(open_one: Open) -> None:
    with ThreadPoolExecutor(16) as pool:
        numbers = [number % 8 for number in range(16)]
        versions = list(pool.map(lambda number: open_one().register(manifest(number), "digits").version, numbers))
    assert versions[:8] == versions[8:]
    assert sorted(versions[:8]) == list(range(1, 9))
    assert [version.version for version in open_one().versions("digits")] == list(range(1, 9))


def test_processes_agree_as_threads_do(store: Store, config: Config) -> None:
    with ProcessPoolExecutor(8, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(register_in_process, store.uri, store.access, config, number % 2) for number in range(8)]
        versions = [job.result() for job in jobs]
    assert sorted(set(versions)) == [1, 2]
    assert versions == versions[:2] * 4


def test_get_takes_a_number_an_alias_or_the_newest(registry: ModelRegistry) -> None:
    for number in range(1, 13):
        registry.register(manifest(number), "digits")
    registry.set_alias("digits", "production", 3)
    assert registry.get("digits").version == 12
    assert registry.get("digits", "latest").version == 12
    assert registry.get("digits", 2).version == 2
    assert registry.get("digits", "2").version == 2
    assert registry.get("digits", "production").version == 3
    assert registry.get("digits", 3).aliases == ("production",)
    registry.set_alias("digits", "production", 5)
    assert registry.get("digits", "production").version == 5
    assert registry.get("digits", 3).aliases == ()


def test_tags_are_added_and_changed(registry: ModelRegistry) -> None:
    registry.register(manifest(1), "digits", tags={"stage": "new", "team": "a"})
    registry.register(manifest(2), "digits")
    registry.set_tags("digits", 1, {"stage": "tested"})
    registry.set_tags("digits", 1, {"signed": "yes"})
    assert registry.get("digits", 1).tags == {"stage": "tested", "team": "a", "signed": "yes"}
    assert registry.get("digits", 2).tags == {}


def test_labels_set_at_once_are_all_kept(open_one: Open) -> None:
    open_one().register(manifest(1), "digits")

    def label(number: int) -> None:
        open_one().set_tags("digits", 1, {f"tag-{number}": "x"})
        open_one().set_alias("digits", f"alias-{number}", 1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(label, range(8)))
    version = open_one().get("digits", 1)
    assert version.aliases == tuple(f"alias-{number}" for number in range(8))
    assert version.tags == {f"tag-{number}": "x" for number in range(8)}


@pytest.mark.parametrize("name", ["", "with space", "a/b", "..", "ü", "x" * 201, "new\nline", "trailing\n"])
def test_a_name_that_is_none_is_refused(registry: ModelRegistry, name: str) -> None:
    with pytest.raises(RequestError, match="a model's name has 1 to 200 letters"):
        registry.register(manifest(1), name)
    with pytest.raises(RequestError, match="a model's name has 1 to 200 letters"):
        registry.get(name)


@pytest.mark.parametrize("alias", ["", "7", "latest", "a b"])
def test_an_alias_that_is_none_is_refused(registry: ModelRegistry, alias: str) -> None:
    registry.register(manifest(1), "digits")
    with pytest.raises(RequestError, match="an alias has letters"):
        registry.set_alias("digits", alias, 1)


def test_what_is_not_there_is_named(registry: ModelRegistry) -> None:
    assert registry.names() == []
    with pytest.raises(RequestError, match=r"no model 'nope' .* there are: none"):
        registry.get("nope")
    registry.register(manifest(1), "digits")
    with pytest.raises(RequestError, match=r"no model 'nope' .* there are: digits"):
        registry.versions("nope")
    with pytest.raises(RequestError, match="model 'digits' has no version 9; its newest version is 1"):
        registry.get("digits", 9)
    with pytest.raises(RequestError, match=r"model 'digits' has no alias 'prod' \(aliases: none\)"):
        registry.get("digits", "prod")
    with pytest.raises(RequestError, match="no version 4"):
        registry.set_alias("digits", "prod", 4)
    with pytest.raises(RequestError, match=r"no file below 'nope' .* it has \['outputs/model\.pt'\]"):
        registry.register(manifest(1), "digits", path="nope")


def test_what_is_away_and_what_refuses_is_said_as_such(config: Config, store: Store) -> None:
    """``StoreUnavailable`` and ``AccessDenied`` are worth another try; a wrong request is not."""
    nowhere = "http://127.0.0.1:1"
    away = {**config, "tracking_uri": nowhere} if config["type"] == "mlflow" else config
    wrong = {**config, "password": "s3cr3t"} if config["type"] == "mlflow" else config
    with pytest.raises(StoreUnavailable, match=nowhere):
        open_registry(away, RunStore(store.uri, replace(store.access, endpoint_url=nowhere))).register(manifest(1), "digits")
    with pytest.raises(AccessDenied) as refused:
        open_registry(wrong, RunStore(store.uri, replace(store.access, secret_key="s3cr3t"))).register(manifest(1), "digits")
    assert "s3cr3t" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_configuration_that_is_none_is_refused(config: Config, store: Store) -> None:
    with pytest.raises(RequestError, match="unknown registry 'moon'; it is one of mlflow, store"):
        open_registry("moon", store.open())
    with pytest.raises(RequestError, match="field 'colour'"):
        open_registry({**config, "colour": "red"}, store.open())


class _Dying:
    """A bucket whose owner dies before its n-th write."""

    def __init__(self, bucket: Any, writes: int) -> None:
        self._bucket = bucket
        self._left = writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bucket, name)

    def put_json(self, *args: Any, **fields: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return self._bucket.put_json(*args, **fields)


@pytest.mark.parametrize("others", [0, 1, 3])
@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_cut_off_between_two_writes_a_retry_gets_no_second_version(store: Store, writes: int, others: int) -> None:
    """The store's own registry: cut off before its n-th write, then other manifests are registered, then it is tried again."""
    open_registry("store", store.open()).register(manifest(100), "digits")
    dying = store.open()
    dying._opened = _Dying(dying.bucket, writes)  # type: ignore[assignment]
    try:
        open_registry("store", dying).register(manifest(1), "digits")
    except KeyboardInterrupt:
        pass
    registry = open_registry("store", store.open())
    for number in range(others):
        registry.register(manifest(10 + number), "digits")
    version = registry.register(manifest(1), "digits").version
    assert registry.register(manifest(1), "digits").version == version
    versions = registry.versions("digits")
    assert [v.version for v in versions] == list(range(1, 3 + others))
    assert len({v.manifest for v in versions}) == 2 + others
    digests = {key for key in store.open().bucket.keys(store_keys.MODELS) if "/manifests/" in key}
    assert len(digests) == 2 + others
