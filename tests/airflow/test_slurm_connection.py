"""A connection to a cluster names the ssh provider's connection of its login node; the hook puts that in its place."""

from __future__ import annotations

import json

import pytest

from muster.hooks.compute import ComputeHook
from muster.targets.hosts.ssh_login import SshLogin
from muster.targets.slurm.login_node import ThisMachine
from muster.targets.slurm.target import SlurmTarget


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login node with a password, a cluster that names it, and one whose login node is the worker's machine."""
    login = {"conn_type": "ssh", "host": "login.cluster", "port": 2222, "login": "me", "password": "s3cret"}
    remote = {"target": "slurm", "ssh_conn_id": "login", "partition": "gpu", "modules": "cuda/12 gcc", "requeue": "false"}
    monkeypatch.setenv("AIRFLOW_CONN_LOGIN", json.dumps(login))
    monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", json.dumps({"conn_type": "muster", "extra": remote}))
    monkeypatch.setenv("AIRFLOW_CONN_HERE", json.dumps({"conn_type": "muster", "extra": {"target": "slurm", "host": ""}}))


def test_the_login_of_an_ssh_connection_is_put_in_its_place() -> None:
    target = ComputeHook("cluster").get_target()
    assert isinstance(target, SlurmTarget)
    assert isinstance(target.login.login, SshLogin)
    assert (target.login.login.host, target.login.login.port, target.login.login.user) == ("login.cluster", 2222, "me")
    assert target.login.login.password == "s3cret"
    assert (target.options.partition, target.options.modules, target.options.requeue) == ("gpu", ("cuda/12", "gcc"), False)
    assert "s3cret" not in repr(target)


def test_without_a_host_the_login_node_is_the_workers_machine() -> None:
    target = ComputeHook("here").get_target()
    assert isinstance(target, SlurmTarget)
    assert isinstance(target.login.login, ThisMachine)
