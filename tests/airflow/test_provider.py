"""What Airflow sees of the provider: discovery, connection form, hooks, secrets, links, and the test of a connection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
from airflow.providers_manager import ProvidersManager
from airflow.sdk import Connection
from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

from muster import __version__
from muster.core.errors import RequestError
from muster.core.store_access import StoreAccess
from muster.hooks.compute import ComputeHook
from muster.hooks.secrets import resolve_secrets
from muster.hooks.store import RunStoreHook
from muster.links.outputs import OutputsLink, outputs_url
from muster.targets.local.target import LocalTarget
from store_server import Store


def test_airflow_discovers_the_provider() -> None:
    providers = ProvidersManager()
    info = providers.providers["airflow-provider-muster"]
    assert info.version == __version__
    assert "muster.links.outputs.OutputsLink" in providers.extra_links_class_names
    options = dict(providers.provider_configs)["airflow-provider-muster"]["muster"]["options"]
    assert set(options) == {"deployment_id", "store", "outputs_url_template"}


def test_the_connection_type_has_a_hook_and_a_form() -> None:
    hook = ProvidersManagerTaskRuntime().hooks["muster"]
    assert hook is not None
    assert (hook.hook_name, hook.connection_id_attribute_name) == ("Muster", "muster_conn_id")
    [form] = [form for form in HookMetaService.hook_meta_data() if form.connection_type == "muster"]
    assert form.extra_fields is not None
    assert form.extra_fields["target"]["schema"]["enum"] == ["local", "docker", "ssh", "slurm"]
    assert form.standard_fields is not None
    assert form.standard_fields.host is not None
    assert form.standard_fields.host.hidden


def test_a_connection_becomes_a_targets_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"target": "local", "root": "/data/my jobs"}
    monkeypatch.setenv("AIRFLOW_CONN_GPUS", json.dumps({"conn_type": "muster", "extra": extra}))
    monkeypatch.setenv("AIRFLOW_CONN_EMPTY", json.dumps({"conn_type": "muster", "extra": {"root": "", "target": None}}))
    assert ComputeHook("gpus").get_target_config() == {"type": "local", "root": "/data/my jobs"}
    assert ComputeHook("empty").get_target_config() == {"type": "local"}
    assert ComputeHook("local").get_target_config() == ComputeHook(None).get_target_config() == {"type": "local"}
    assert ComputeHook({"root": "/x"}).get_target_config() == {"root": "/x"}
    target = ComputeHook("gpus").get_target()
    assert isinstance(target, LocalTarget)
    assert target.root == Path("/data/my jobs")


def test_a_docker_engine_takes_its_login_from_the_docker_providers_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = '{"target": "docker", "url": "tcp://rack:2375", "networks": "a,b", "docker_conn_id": "registry", "gpus": ""}'
    monkeypatch.setenv("AIRFLOW_CONN_RACK", f'{{"conn_type": "muster", "extra": {fields}}}')
    login = '"conn_type": "docker", "host": "registry.example.org", "port": 5000, "login": "me", "password": "s3cret"'
    monkeypatch.setenv("AIRFLOW_CONN_REGISTRY", f"{{{login}}}")
    config = ComputeHook("rack").get_target_config()
    assert config == {
        "type": "docker",
        "url": "tcp://rack:2375",
        "networks": "a,b",
        "registry_login": {"server": "registry.example.org:5000", "username": "me", "password": "s3cret"},
    }
    target = ComputeHook("rack").get_target()
    assert "s3cret" not in repr(target)
    with pytest.raises(RequestError, match="name a docker connection by docker_conn_id"):
        ComputeHook({"type": "docker", "registry_login": {"password": "x"}}).get_target_config()
    with pytest.raises(RequestError, match="must name one of type 'docker'"):
        ComputeHook({"type": "docker", "docker_conn_id": "rack"}).get_target_config()


def test_a_connection_that_is_missing_or_of_another_type_is_a_wrong_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WEB", "http://example.com")
    with pytest.raises(RequestError, match="no airflow connection 'nowhere'"):
        ComputeHook("nowhere").get_target_config()
    with pytest.raises(RequestError, match="type 'http'"):
        ComputeHook("web").get_target_config()
    with pytest.raises(RequestError, match="no airflow connection 'nowhere'"):
        RunStoreHook("nowhere").get_access()


def test_testing_a_connection_looks_at_the_target(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    fine, said = press_test({"target": "local", "root": str(tmp_path / "root")})
    assert fine, said
    assert "root folder: ok" in said
    fine, said = press_test({"target": "local", "root": str(in_the_way / "root")})
    assert not fine
    assert "root folder: UNFIT" in said
    assert said.startswith("UNFIT: ")
    fine, said = press_test({"target": "moon"})
    assert not fine
    assert "unknown target 'moon'" in said


def press_test(extra: dict[str, str]) -> tuple[bool, str]:
    """Press the button of the connection form."""
    return Connection(conn_id="tested", conn_type="muster", extra=json.dumps(extra)).test_connection()


@pytest.mark.usefixtures("airflow_db")
def test_doctor_takes_a_connection_from_airflows_database(tmp_path: Path) -> None:
    from airflow.configuration import conf
    from airflow.models.connection import Connection as Row
    from airflow.utils.session import create_session

    extra = json.dumps({"target": "local", "root": str(tmp_path / "root")})
    with create_session() as session:
        session.add(Row(conn_id="stored-rack", conn_type="muster", extra=extra))
    asked = [sys.executable, "-m", "muster.cli", "doctor", "stored-rack", "--json"]
    key = {"AIRFLOW__CORE__FERNET_KEY": conf.get("core", "fernet_key")}  # of this process only, in Airflow's test mode
    done = subprocess.run(
        asked, cwd=tmp_path, env={**os.environ, **key}, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {finding["what"]: finding for finding in map(json.loads, done.stdout.splitlines())}
    assert found["root folder"]["text"] == f"{tmp_path}/root is writable"


def test_an_aws_connection_gives_access_to_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"endpoint_url": store.access.endpoint_url, "aws_session_token": "", "verify": "/ca.pem"}
    aws = {"conn_type": "aws", "login": store.access.access_key, "password": store.access.secret_key, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps(aws))
    monkeypatch.setenv("AIRFLOW_CONN_REFUSED", json.dumps({**aws, "password": "wrong"}))
    access = RunStoreHook("store").get_access()
    assert (access.endpoint_url, access.access_key, access.verify) == (
        store.access.endpoint_url,
        store.access.access_key,
        "/ca.pem",
    )
    assert RunStoreHook("store", store.uri).test_connection()[0]
    fine, said = RunStoreHook("refused", store.uri).test_connection()
    assert not fine
    assert store.uri in said


def test_a_connection_without_keys_leaves_the_nodes_their_own_role(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ROLE", json.dumps({"conn_type": "aws", "extra": {"region_name": "eu-west-1"}}))
    assert RunStoreHook("role").get_access() == StoreAccess(region="eu-west-1")


def test_without_a_connection_the_standard_variables_are_taken(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    for name, value in store.server.environment.items():
        monkeypatch.setenv(name, value)
    assert RunStoreHook().get_access() == store.access


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("variable:token", "of the variable"),
        ("connection:vault.password", "of the connection"),
        ("connection:vault", "of the connection"),
        ("connection:vault.login", "user"),
        ("connection:vault.extra.a.b", "of the extra"),
        ("vault", "of the connection"),
        ("token", "of the variable"),
    ],
)
def test_secrets_are_found_where_they_are_said_to_be(source: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = {"conn_type": "generic", "login": "user", "password": "of the connection", "extra": {"a.b": "of the extra"}}
    monkeypatch.setenv("AIRFLOW_CONN_VAULT", json.dumps(vault))
    monkeypatch.setenv("AIRFLOW_VAR_TOKEN", "of the variable")
    assert resolve_secrets({"NAME": source}) == {"NAME": value}


@pytest.mark.parametrize("source", ["variable:none", "connection:none.password", "none", "connection:vault.host"])
def test_a_secret_that_is_nowhere_is_a_wrong_request(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_VAULT", json.dumps({"conn_type": "generic", "password": "x"}))
    with pytest.raises(RequestError, match="NAME"):
        resolve_secrets({"NAME": source})


def test_the_link_leads_to_the_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"store": "s3://bucket/a b", "run": "r-1", "generation": 2}
    assert outputs_url(**known, endpoint="http://s3:9000/") == "http://s3:9000/bucket/a%20b/runs/r-1/g2/outputs/"
    assert outputs_url(**known, endpoint="") == (
        "https://s3.console.aws.amazon.com/s3/buckets/bucket?prefix=a%20b/runs/r-1/g2/outputs/"
    )
    monkeypatch.setenv("AIRFLOW__MUSTER__OUTPUTS_URL_TEMPLATE", "https://browse/{run}/{generation}")
    assert outputs_url(**known, endpoint="") == "https://browse/r-1/2"
    assert OutputsLink().xcom_key == "_link_OutputsLink"
