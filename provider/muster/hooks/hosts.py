"""Connections of the ssh provider as plain login fields, put in the place of the ids that name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from airflow.sdk import Connection

from muster.core.errors import RequestError
from muster.targets.ssh.inventory import CONN_ID, given_hosts

SSH = "ssh"  # the ssh provider's connections
HOSTS = "hosts"
SECRETS = ("private_key", "passphrase", "password")
# extras of the ssh provider's connections, by the login field that each becomes
_EXTRAS = {"private_key": "private_key", "key_file": "key_file", "passphrase": "private_key_passphrase", "host_key": "host_key"}


def with_hosts(config: dict[str, Any], connection_of: Callable[[str], Connection]) -> dict[str, Any]:
    """Put the logins of the ssh provider's connections in the place of each ``ssh_conn_id``, the target's own or a host's.

    What a host says itself comes before what its connection says. Without hosts, the connection's own is the only one.
    """
    common = str(config.pop(CONN_ID, None) or "")
    hosts = given_hosts(config.get(HOSTS)) or ([{}] if common else [])
    if not any(host.get(CONN_ID) or common for host in hosts):
        return config
    logins: dict[str, dict[str, Any]] = {}
    result = []
    for host in hosts:
        conn_id = str(host.pop(CONN_ID, None) or common)
        if conn_id and conn_id not in logins:
            logins[conn_id] = login_fields(conn_id, connection_of(conn_id))
        result.append(_joined(host, logins.get(conn_id, {})))
    return {**config, HOSTS: result}


def with_login_node(config: dict[str, Any], connection_of: Callable[[str], Connection]) -> dict[str, Any]:
    """Put the login of the ssh provider's connection that ``ssh_conn_id`` names in its place, for a target with one login."""
    conn_id = str(config.pop(CONN_ID, None) or "")
    return {**login_fields(conn_id, connection_of(conn_id)), **config} if conn_id else config


def login_fields(conn_id: str, connection: Connection) -> dict[str, Any]:
    """Give an ssh provider's connection as fields of a login; empty ones are left out.

    :raises RequestError: it is of another type.
    """
    if connection.conn_type != SSH:
        raise RequestError(f"connection {conn_id!r} has type {connection.conn_type!r}; {CONN_ID} must name one of type {SSH!r}")
    extra = connection.extra_dejson
    fields = {
        "host": connection.host,
        "port": connection.port,
        "user": connection.login,
        "password": connection.password,
        **{field: extra.get(name) for field, name in _EXTRAS.items()},
    }
    if str(extra.get("no_host_key_check", "")).lower() == "true" and not extra.get("host_key"):
        fields["host_key_check"] = "false"
    return {name: value for name, value in fields.items() if value not in (None, "")}


def refuse_secrets(config: Mapping[str, Any]) -> None:
    """Refuse keys and passwords in a plain dictionary: they would be shown with the task's fields and travel with its trigger.

    :raises RequestError: there is one.
    """
    for fields in (config, *given_hosts(config.get(HOSTS))):
        found = [name for name in SECRETS if fields.get(name)]
        if found:
            raise RequestError(f"compute_target: {found[0]} is a secret; name an ssh connection by {CONN_ID}, or give key_file")


def _joined(host: dict[str, Any], login: dict[str, Any]) -> dict[str, Any]:
    """Give a host with its login; a key of the login's host is no key of another one."""
    elsewhere = host.get("host") not in (None, "", login.get("host")) or ("name" in host and "host" not in host)
    taken = {name: value for name, value in login.items() if not (elsewhere and name in ("host", "host_key"))}
    name = {} if host.get("name") else {"name": str(host.get("host") or login.get("host") or "")}
    return {**taken, **name, **{key: value for key, value in host.items() if value not in (None, "")}}
