"""Connections of the ssh provider name users and keys; the hook puts them in their place, and no secret travels."""

from __future__ import annotations

import json

import pytest

from muster.core.errors import RequestError
from muster.hooks.compute import ComputeHook
from muster.targets.ssh.target import SshTarget

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nnot one\n-----END OPENSSH PRIVATE KEY-----\n"


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ssh connection with a key, one with a password, and an inventory that names them."""
    gpu = {
        "conn_type": "ssh",
        "host": "10.0.0.9",
        "login": "train",
        "extra": {"private_key": KEY, "host_key": "ssh-ed25519 AAAA"},
    }
    other = {"conn_type": "ssh", "host": "10.0.0.8", "port": 2222, "login": "me", "password": "s3cret"}
    other["extra"] = {"no_host_key_check": True}
    rack = {"target": "ssh", "ssh_conn_id": "gpu", "gpus": "4"}
    rack["hosts"] = (
        "# the rack\none host=10.0.0.9\ntwo host=10.0.0.10 slots=8 gpus=0,2\nthree ssh_conn_id=other host=10.0.0.8\n"
    )
    monkeypatch.setenv("AIRFLOW_CONN_GPU", json.dumps(gpu))
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(other))
    monkeypatch.setenv("AIRFLOW_CONN_RACK", json.dumps({"conn_type": "muster", "extra": rack}))


def test_logins_are_put_in_the_place_of_the_ids_that_name_them() -> None:
    target = ComputeHook("rack").get_target()
    assert isinstance(target, SshTarget)
    one, two, three = target.inventory.hosts
    assert [(h.name, h.login.host, h.login.port, h.login.user) for h in (one, two, three)] == [
        ("one", "10.0.0.9", 22, "train"),
        ("two", "10.0.0.10", 22, "train"),
        ("three", "10.0.0.8", 2222, "me"),
    ]
    assert (one.login.private_key, one.login.host_key) == (KEY, "ssh-ed25519 AAAA")
    assert (two.login.private_key, two.login.host_key) == (KEY, ""), "the key of one host is not that of another"
    assert (three.login.password, three.login.host_key_check, one.login.host_key_check) == ("s3cret", False, True)
    assert (one.gpus, two.gpus, two.slots) == (("0", "1", "2", "3"), ("0", "2"), 8)


def test_no_secret_is_shown_by_a_target() -> None:
    shown = repr(ComputeHook("rack").get_target())
    assert "s3cret" not in shown
    assert "not one" not in shown


def test_one_ssh_connection_is_an_inventory_of_one_host() -> None:
    target = ComputeHook({"type": "ssh", "ssh_conn_id": "gpu"}).get_target()
    assert isinstance(target, SshTarget)
    assert [(host.name, host.login.host) for host in target.inventory.hosts] == [("10.0.0.9", "10.0.0.9")]


def test_what_is_no_ssh_connection_and_secrets_in_plain_sight_are_refused() -> None:
    with pytest.raises(RequestError, match="ssh_conn_id must name one of type 'ssh'"):
        ComputeHook({"type": "ssh", "ssh_conn_id": "rack"}).get_target_config()
    with pytest.raises(RequestError, match="no airflow connection 'none'"):
        ComputeHook({"type": "ssh", "hosts": ["a ssh_conn_id=none"]}).get_target_config()
    for config in ({"password": "x"}, {"hosts": [{"name": "a", "private_key": KEY}]}):
        with pytest.raises(RequestError, match="is a secret; name an ssh connection by ssh_conn_id"):
            ComputeHook({"type": "ssh", **config}).get_target_config()
