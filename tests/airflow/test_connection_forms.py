"""Connection types as Airflow has them: forms that are the declared options, examples of the docs, the test of each type."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
from airflow.sdk import Connection
from airflow.sdk.log import redact
from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

from muster.core.errors import RequestError
from muster.hooks.compute import STANDARD_FIELDS, ComputeHook
from muster.targets import OPTIONS
from muster.targets.docker.engine import DEFAULT_URL
from muster.targets.options import Option
from rack import Rack
from slurm_cluster import SlurmCluster

PAGE = (Path(__file__).parents[2] / "docs" / "connections.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^airflow connections add (\w+) (.*)\n", PAGE, re.M))
VARIABLES = dict(re.findall(r"^export (AIRFLOW_CONN_\w+)='(.*)'$", PAGE, re.M))


def form(connection_type: str) -> Any:
    [found] = [form for form in HookMetaService.hook_meta_data() if form.connection_type == connection_type]
    return found


def shown(target: str) -> list[Option]:
    return [option for option in OPTIONS[target] if option.form]


@pytest.mark.parametrize("target", OPTIONS)
def test_the_fields_of_a_form_are_the_options_of_its_target(target: str) -> None:
    extra = form(f"muster_{target}").extra_fields
    declared = [option for option in shown(target) if not option.standard]
    assert list(extra) == [option.name for option in declared]
    for option in declared:
        assert extra[option.name]["schema"]["title"] == option.label
        assert extra[option.name]["schema"]["section"] == option.group
        assert extra[option.name]["description"].startswith(option.help)
        assert option.example in json.dumps(extra[option.name], ensure_ascii=False)


@pytest.mark.parametrize("target", OPTIONS)
def test_standard_fields_are_used_where_they_mean_an_option_and_hidden_elsewhere(target: str) -> None:
    standard = form(f"muster_{target}").standard_fields
    options = {option.standard: option for option in shown(target)}
    for field in STANDARD_FIELDS:
        shown_field = getattr(standard, "url_schema" if field == "schema" else field)
        if field in options:
            assert (shown_field.hidden, shown_field.title) == (False, options[field].label)
            assert shown_field.placeholder == (options[field].example or None)
        else:
            assert shown_field.hidden


@pytest.mark.parametrize("target", OPTIONS)
def test_secrets_are_masked_in_the_form_and_wherever_airflow_shows_a_connection(target: str) -> None:
    extra = form(f"muster_{target}").extra_fields
    for option in shown(target):
        if not option.standard:
            assert (extra[option.name]["schema"].get("format") == "password") is option.secret, option.name
        if option.secret:
            assert redact({option.name: "s3cret"}) == {option.name: "***"}
    assert not any(option.secret for option in OPTIONS["local"])


def test_the_general_form_asks_for_the_target_alone() -> None:
    general = form("muster")
    assert list(general.extra_fields) == ["target"]
    assert all(getattr(general.standard_fields, field).hidden for field in ("host", "port", "login", "password", "url_schema"))


@pytest.mark.parametrize("target", OPTIONS)
def test_each_type_has_a_hook_that_opens_its_target(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = ProvidersManagerTaskRuntime().hooks[f"muster_{target}"]
    assert hook is not None
    assert (hook.hook_name, hook.connection_id_attribute_name) == (form(f"muster_{target}").hook_name, "muster_conn_id")
    example = "host" if target == "ssh" else "description"
    monkeypatch.setenv("AIRFLOW_CONN_ONE", json.dumps({"conn_type": f"muster_{target}", example: "10.0.0.11"}))
    assert type(ComputeHook("one").get_target()).__name__ == f"{target.title()}Target"


def test_standard_fields_become_options(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {
        "host": "login.cluster",
        "port": 2222,
        "login": "me",
        "password": "s3cret",
        "extra": {"partition": "gpu", "qos": ""},
    }
    monkeypatch.setenv("AIRFLOW_CONN_ONE", json.dumps({"conn_type": "muster_slurm", **fields}))
    assert ComputeHook("one").get_target_config() == {
        "type": "slurm",
        "host": "login.cluster",
        "port": 2222,
        "user": "me",
        "password": "s3cret",
        "partition": "gpu",
    }


@pytest.mark.parametrize(
    ("connection", "words"),
    [
        ({"conn_type": "muster_local", "host": "h"}, "type 'muster_local' does not use the field host; clear it"),
        ({"conn_type": "muster_docker", "password": "s3cret"}, "does not use the field password; clear it, and use host and"),
        (
            {"conn_type": "muster", "port": 5, "extra": {"target": "ssh"}},
            "field port; clear it, and put the options into extra",
        ),
        (
            {"conn_type": "muster_docker", "extra": {"uri": "x"}},
            "connection 'one': target 'docker' has no option 'uri'; it takes url,",
        ),
        ({"conn_type": "muster_docker", "extra": {"tls_verify": "no way"}}, "tls_verify must be true or false, got 'no way'"),
        ({"conn_type": "muster_slurm", "extra": {"cpus_per_task": "many"}}, "must be a whole number, got 'many'; such as 32"),
        ({"conn_type": "muster_ssh"}, "connection 'one': hosts is empty"),
        ({"conn_type": "muster_ssh", "host": "a", "extra": {"hosts": "b"}}, "host = 'a' is of one host, but hosts lists 1"),
        ({"conn_type": "muster_moon"}, "must be 'muster' or one of muster_local, muster_docker, muster_ssh, muster_slurm"),
    ],
)
def test_a_wrong_field_is_named_with_its_remedy(
    connection: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ONE", json.dumps(connection))
    with pytest.raises(RequestError, match=re.escape(words)) as caught:
        ComputeHook("one").get_target()
    assert "s3cret" not in str(caught.value)


def test_every_type_is_in_the_docs() -> None:
    types = {shlex.split(words)[1] for words in EXAMPLES.values()}
    assert types == {"muster", *(f"muster_{target}" for target in OPTIONS)}
    assert {f"AIRFLOW_CONN_{name.upper()}" for name in EXAMPLES} == set(VARIABLES)


@pytest.mark.usefixtures("airflow_db")
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_the_docs_are_connections_that_muster_takes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.cli.cli_parser import get_parser

    arguments = get_parser().parse_args(["connections", "add", name, *shlex.split(EXAMPLES[name])])
    monkeypatch.setenv("AIRFLOW_CONN_WRITTEN", VARIABLES[f"AIRFLOW_CONN_{name.upper()}"])
    added = Connection(
        conn_id="added",
        conn_type=arguments.conn_type,
        host=arguments.conn_host,
        login=arguments.conn_login,
        extra=arguments.conn_extra,
    )
    monkeypatch.setenv("AIRFLOW_CONN_ADDED", added.get_uri())
    by_command, by_variable = (ComputeHook(conn_id).get_target() for conn_id in ("added", "written"))
    assert by_command == by_variable


# -- the test of a connection


def press_test(connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[bool, str]:
    """Test a connection as Airflow's API does: its URI is put into the environment, and its hook is asked."""
    if isinstance(connection.get("extra"), dict):
        connection = {**connection, "extra": json.dumps(connection["extra"])}
    tested = Connection(conn_id="tested", **connection)
    monkeypatch.setenv("AIRFLOW_CONN_TESTED", tested.get_uri())
    return tested.test_connection()


def test_the_test_of_a_local_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fine, said = press_test({"conn_type": "muster_local", "extra": {"root": str(tmp_path / "root")}}, monkeypatch)
    assert fine, said
    (tmp_path / "file").touch()
    fine, said = press_test({"conn_type": "muster_local", "extra": {"root": str(tmp_path / "file" / "root")}}, monkeypatch)
    assert not fine
    assert "root folder: UNFIT" in said


@pytest.mark.usefixtures("engine")
def test_the_test_of_a_docker_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = os.environ.get("DOCKER_HOST") or DEFAULT_URL
    fine, said = press_test({"conn_type": "muster_docker", "host": url}, monkeypatch)
    assert fine, said
    assert f"at {url}" in said
    fine, said = press_test({"conn_type": "muster_docker", "host": f"unix://{tmp_path}/no.sock"}, monkeypatch)
    assert not fine
    assert "docker engine: UNFIT" in said
    fine, said = press_test({"conn_type": "muster_docker", "host": url, "extra": {"networks": "nowhere"}}, monkeypatch)
    assert not fine
    assert "there is none called nowhere" in said


def test_the_test_of_an_ssh_connection(rack: Rack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key as a password field has it: without its line ends."""
    host = rack.hosts[0]
    extra = {"private_key": rack.key_file.read_text(encoding="utf-8").replace("\n", ""), "known_hosts": host.known}
    fields = {"conn_type": "muster_ssh", "host": host.address, "port": 22, "login": "root"}
    fine, said = press_test({**fields, "extra": extra}, monkeypatch)
    assert fine, said
    assert f"{host.address}: login" in said
    assert "PRIVATE KEY" not in said
    fine, said = press_test({**fields, "extra": {**extra, "private_key": "s3cret"}}, monkeypatch)
    assert not fine
    assert "the private key" in said
    assert "s3cret" not in said


def test_the_test_of_a_slurm_connection(slurm_cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in slurm_cluster.environment.items():
        monkeypatch.setenv(name, value)
    root = str(tmp_path / "shared")
    fine, said = press_test({"conn_type": "muster_slurm", "extra": {"root": root}}, monkeypatch)
    assert fine, said
    assert "partition: ok" in said
    fine, said = press_test({"conn_type": "muster_slurm", "extra": {"root": root, "partition": "none"}}, monkeypatch)
    assert not fine
    assert "there is no partition 'none'" in said
