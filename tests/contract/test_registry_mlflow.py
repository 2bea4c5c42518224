"""What only the MLflow registry has to do: what MLflow shows of a version, and turns where it has no conditional writes."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlflow_server import RunningMlflow
from muster.core import store_keys
from muster.core.errors import RequestError
from muster.core.manifest import Manifest, ManifestFile
from muster.core.model_version import ModelVersion
from muster.core.store_access import StoreAccess
from muster.registry import open_registry
from muster.registry.lease import Lease
from muster.registry.mlflow_registry import MlflowRegistry
from muster.registry.mlflow_server import MlflowServer
from muster.store.run_store import RunStore
from muster.store.s3.errors import AccessDenied
from store_server import Store

HOSTILE = "a b \"c\" 'd' $e\nü"


def manifest(store: Store, number: int = 1, metrics: dict[str, float] | None = None) -> Manifest:
    """Return a manifest of a run of the store."""
    file = ManifestFile(path="outputs/a b/model ü.pt", size=5, sha256=f"{number:064x}", key="k")
    uri = f"{store.uri}/runs/run-{number}/g1"
    return Manifest(run=f"run-{number}", generation=1, attempt=1, uri=uri, files=(file,), metrics=metrics, snapshot="sha256:ab")


@pytest.fixture
def server(mlflow_server: RunningMlflow) -> MlflowServer:
    return MlflowServer.from_fields(mlflow_server.config)


def test_mlflow_shows_source_tags_description_and_metrics(server: MlflowServer, store: Store) -> None:
    metrics = {"accuracy": 0.9, "train/loss": 1.0, "a:b": 2.0, "../up": 3.0, "": 4.0, "never": float("inf")}
    version = MlflowRegistry(server, store.open()).register(manifest(store, metrics=metrics), "digits", tags={"by": HOSTILE})
    [found] = server.model_store().search_model_versions("name='digits'")
    assert found.source == version.uri == f"{store.uri}/runs/run-1/g1/outputs"
    assert server.model_store().get_model_version_download_uri("digits", "1") == version.uri
    assert found.tags["by"] == HOSTILE
    assert (found.tags["muster.run"], found.tags["muster.manifest"]) == ("run-1", version.manifest)
    assert (found.tags["muster.snapshot"], found.tags["muster.path"]) == ("sha256:ab", "outputs")
    assert found.description == "Muster run run-1, generation 1: 1 files, 5 bytes"
    run = server.tracking_store().get_run(found.run_id)
    assert (run.info.run_name, run.info.status) == ("run-1", "FINISHED")
    assert server.tracking_store().get_experiment(run.info.experiment_id).name == "digits"
    assert run.data.metrics["accuracy"] == 0.9
    assert run.data.metrics["train/loss"] == 1.0
    assert len(run.data.metrics) == 6
    assert version.metrics == metrics


def test_more_metrics_than_mlflow_takes_at_once_are_all_shown(server: MlflowServer, store: Store) -> None:
    metrics = {f"m{number}": float(number) for number in range(1001)}
    MlflowRegistry(server, store.open()).register(manifest(store, metrics=metrics), "digits")
    [found] = server.model_store().search_model_versions("name='digits'")
    assert server.tracking_store().get_run(found.run_id).data.metrics == metrics


def test_mlflow_loads_the_files_of_a_version_by_its_name(
    mlflow_server: RunningMlflow, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As someone who knows nothing of Muster would, with MLflow's and the store's own variables."""
    from mlflow.artifacts import download_artifacts

    config = mlflow_server.config
    told = {"TRACKING_URI": config["tracking_uri"], "TRACKING_USERNAME": config["username"]}
    told |= {"TRACKING_PASSWORD": config["password"], "S3_ENDPOINT_URL": store.access.endpoint_url}
    for name, value in {**store.server.environment, **{f"MLFLOW_{name}": value for name, value in told.items()}}.items():
        monkeypatch.setenv(name, value)
    store.open().bucket.put("runs/run-1/g1/outputs/a b/model ü.pt", b"model")
    open_registry(config, store.open()).register(manifest(store), "digits")
    folder = download_artifacts("models:/digits/1", dst_path=str(tmp_path))
    assert (Path(folder) / "a b" / "model ü.pt").read_bytes() == b"model"


def test_credentials_are_a_registrys_own(
    server: MlflowServer, mlflow_server: RunningMlflow, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "someone else")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another password")
    before = dict(os.environ)
    MlflowRegistry(server, store.open()).register(manifest(store), "digits")
    for wrong in ({"password": "wrong"}, {"password": "", "username": ""}, {"password": "", "token": "wrong"}):
        with pytest.raises(AccessDenied):
            open_registry({**mlflow_server.config, **wrong}, store.open()).names()
    assert MlflowRegistry(server, store.open()).names() == ["digits"]
    assert dict(os.environ) == before
    assert mlflow_server.config["password"] not in repr(server)


def test_versions_that_others_made_are_seen(server: MlflowServer, store: Store) -> None:
    server.model_store().create_registered_model("theirs")
    registry = MlflowRegistry(server, store.open())
    with pytest.raises(RequestError, match=r"no model 'theirs'.* there are: theirs"):
        registry.get("theirs")
    server.model_store().create_model_version("theirs", "s3://somewhere/else", "")
    [version] = registry.versions("theirs")
    assert version == ModelVersion(
        name="theirs", version=1, uri="s3://somewhere/else", run="", manifest="", path="", created=version.created
    )
    assert registry.register(manifest(store), "theirs").version == 2


@pytest.mark.parametrize(
    ("tags", "said"), [({"muster.run": "x"}, "begin with 'muster.'"), ({"a*b": "x"}, "a\\*b"), ({"a": "x" * 100_001}, "length")]
)
def test_tags_that_mlflow_or_muster_refuses_are_named(
    tags: dict[str, str], said: str, server: MlflowServer, store: Store
) -> None:
    with pytest.raises(RequestError, match=said):
        MlflowRegistry(server, store.open()).register(manifest(store), "digits", tags=tags)


@pytest.mark.parametrize("alias", ["v1", "a.b"])
def test_aliases_that_mlflow_refuses_are_named(alias: str, server: MlflowServer, store: Store) -> None:
    registry = MlflowRegistry(server, store.open())
    registry.register(manifest(store), "digits")
    with pytest.raises(RequestError, match=alias):
        registry.set_alias("digits", alias, 1)


def test_a_deleted_version_leaves_a_gap_and_can_be_registered_again(server: MlflowServer, store: Store) -> None:
    registry = MlflowRegistry(server, store.open())
    registry.register(manifest(store), "digits")
    registry.register(manifest(store, 2), "digits")
    server.model_store().delete_model_version("digits", "1")
    assert registry.register(manifest(store), "digits").version == 3
    assert [version.version for version in registry.versions("digits")] == [2, 3]


def test_an_address_that_is_no_mlflow_server_is_said_to_be_none(store: Store, mlflow_server: RunningMlflow) -> None:
    config = {**mlflow_server.config, "tracking_uri": f"{mlflow_server.tracking_uri}/health"}
    with pytest.raises(RequestError, match=r"/health is no MLflow server: .* status 404"):
        open_registry(config, store.open()).names()


# -- turns


def test_a_dead_holder_keeps_its_turn_for_a_lease(store: Store) -> None:
    bucket = store.open().bucket
    bucket.put_json("turn.json", {"version": 1, "holder": "dead"})
    with Lease(bucket, "turn.json", 0.3):
        assert bucket.get_json("turn.json")[0]["holder"] not in ("", "dead")  # type: ignore[index]
    assert bucket.get_json("turn.json")[0]["holder"] == ""  # type: ignore[index]


def test_one_at_a_time_has_the_turn(store: Store) -> None:
    inside: list[int] = []

    def enter(number: int) -> None:
        with Lease(store.open().bucket, "turn.json", 600.0):
            inside.append(number)
            assert inside == [number]
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(24)))


def test_several_that_have_the_turn_at_once_still_give_one_version(server: MlflowServer, store: Store) -> None:
    registries = [MlflowRegistry(server, store.open(), lease=-1) for _ in range(8)]  # nobody waits for anybody
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda registry: registry.register(manifest(store), "digits"), registries))
    assert len({version.version for version in versions}) == 1
    assert [version.version for version in registries[0].versions("digits")] == [versions[0].version]


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_the_request_that_makes_a_version_a_retry_gets_no_second_one(
    when: str, mlflow_server: RunningMlflow, server: MlflowServer, store: Store
) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=_register_and_die, args=(mlflow_server.config, store.uri, store.access, manifest(store), when)
    )
    process.start()
    process.join(240)
    assert process.exitcode == 9
    assert store.open().bucket.get_json(store_keys.registering("digits", manifest(store).digest()))[0]["holder"]  # type: ignore[index]
    assert len(server.model_store().search_model_versions("name='digits'")) == (when == "after")
    registry = MlflowRegistry(server, store.open(), lease=1.0)
    assert registry.register(manifest(store), "digits").version == 1
    assert [version.version for version in registry.versions("digits")] == [1]
    experiment = server.tracking_store().get_experiment_by_name("digits").experiment_id
    assert len(server.tracking_store().search_runs([experiment], "", 1)) == 1


def _register_and_die(config: dict[str, Any], uri: str, access: StoreAccess, what: Manifest, when: str) -> None:
    registry = open_registry(config, RunStore(uri, access))
    assert isinstance(registry, MlflowRegistry)
    models = registry._store
    create = models.create_model_version

    def create_and_die(*args: Any, **fields: Any) -> None:
        if when == "after":
            create(*args, **fields)
        os._exit(9)

    models.create_model_version = create_and_die
    registry.register(what, "digits")
