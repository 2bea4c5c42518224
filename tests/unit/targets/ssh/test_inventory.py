"""Inventories as people write them, and what is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from lab import plan_of
from muster import targets
from muster.core.errors import RequestError
from muster.core.plan import Needs
from muster.targets.hosts.ssh_login import SshLogin
from muster.targets.options import Kind
from muster.targets.ssh.inventory import Host, Inventory
from muster.targets.ssh.options import HOST_OPTIONS

LINES = """
# name and fields
one host=10.0.0.1 gpus=2 address=192.168.0.1
two host=10.0.0.2 port=2222 user=other root="/data/my jobs" spare=yes
three
"""


def test_lines_and_mappings_say_the_same() -> None:
    fields = {"user": "me", "gpus": 4, "slots": "8", "python": "/opt/python"}
    of_lines = Inventory.from_fields({"hosts": LINES, **fields})
    mappings = [
        {"name": "one", "host": "10.0.0.1", "gpus": 2, "address": "192.168.0.1"},
        {"name": "two", "host": "10.0.0.2", "port": 2222, "user": "other", "root": "/data/my jobs", "spare": True},
        {"name": "three"},
    ]
    assert of_lines == Inventory.from_fields({"hosts": mappings, **fields})
    one, two, three = of_lines.hosts
    assert (one.gpus, one.address, one.login.user, one.slots) == (("0", "1"), "192.168.0.1", "me", 8)
    assert (two.login.port, two.login.user, two.root, two.spare, two.address) == (
        2222,
        "other",
        "/data/my jobs",
        True,
        "10.0.0.2",
    )
    assert (three.login.host, three.gpus, three.python, three.root) == (
        "three",
        ("0", "1", "2", "3"),
        "/opt/python",
        "~/.muster",
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "hosts is empty"),
        ({"hosts": "a\na"}, "host 'a' is in the inventory twice"),
        ({"hosts": "a colour=red"}, "host 'a' has no option 'colour'; it takes name, host, port"),
        ({"hosts": "a host"}, "hosts: 'a host' can't be read"),
        ({"hosts": "a 'b"}, "can't be read"),
        ({"hosts": 7}, "hosts must be lines or a list, got int"),
        ({"hosts": "a port=99999"}, "port = 99999 is not a port"),
        ({"hosts": "a slots=many"}, "host 'a': slots must be a whole number, got 'many'"),
        ({"hosts": "a spare=yes\nb"}, "the first, which keeps the queue"),
        ({"hosts": "a spare=perhaps"}, "host 'a': spare must be true or false, got 'perhaps'"),
        ({"hosts": "a ssh_conn_id=x"}, "names a connection of Airflow, which is not here"),
    ],
)
def test_what_can_not_be_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Inventory.from_fields(fields)


def test_the_fields_that_a_target_takes_are_those_that_an_inventory_knows() -> None:
    declared = {option.name for option in targets.OPTIONS["ssh"] if option.kind is not Kind.CONNECTION}
    logins, hosts = (set(known.__dataclass_fields__) for known in (SshLogin, Host))
    of_one_host = {"name", "login", "address", "spare"}
    assert declared == {"hosts"} | (logins - {"name"}) | (hosts - of_one_host)
    assert {option.name for option in HOST_OPTIONS} == (logins | hosts | {"ssh_conn_id"}) - {"login"}


def test_plans_that_never_fit_are_refused_with_what_there_is() -> None:
    hosts = Inventory.from_fields({"hosts": "a slots=2 gpus=1\nb slots=4\nc spare=yes gpus=4"})
    hosts.check(plan_of("", "s3://b/p", nodes=2, ranks=2), "rack")
    hosts.check(plan_of("", "s3://b/p", nodes=1, ranks=4), "rack")
    with pytest.raises(
        RequestError, match=r"3 nodes and 1 processes each .* target 'rack' has 2 such hosts: a \(2 slots, 1 GPUs\), b"
    ):
        hosts.check(plan_of("", "s3://b/p", nodes=3), "rack")
    with pytest.raises(RequestError, match="2 nodes with 1 GPUs and 1 processes each"):
        hosts.check(plan_of("", "s3://b/p", nodes=2, needs=Needs(gpus=1)), "rack")


def test_no_secret_is_in_what_is_shown() -> None:
    shown = repr(Inventory.from_fields({"hosts": "a", "password": "s3cret", "key": "k3y", "passphrase": "ph4se"}))
    assert not any(secret in shown for secret in ("s3cret", "k3y", "ph4se"))
