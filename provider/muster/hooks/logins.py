"""Logins from connections of the docker and ssh providers, put in the place of the ids that name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from airflow.sdk import Connection

from muster import targets
from muster.core.errors import RequestError
from muster.targets.options import Kind
from muster.targets.ssh.inventory import listed_hosts

DOCKER, DOCKER_CONN_ID = "docker", "docker_conn_id"  # connection type of the docker provider, and the option that names one
SSH, SSH_CONN_ID = "ssh", "ssh_conn_id"
HOSTS = ("hosts", "host", "host_key")  # options that describe hosts, as a list or as the only one
# extras of the ssh provider's connections, by the login option that each becomes
_EXTRAS = {"private_key": "private_key", "key_file": "key_file", "passphrase": "private_key_passphrase", "host_key": "host_key"}

ConnectionOf = Callable[[str], Connection]


def resolve_logins(config: Mapping[str, Any], connection_of: ConnectionOf) -> dict[str, Any]:
    """Return a target's configuration with logins in the place of ``docker_conn_id`` and ``ssh_conn_id``.

    :raises RequestError: a connection that is named is missing, or of another type.
    """
    resolved = _with_registry_login(dict(config), connection_of)
    return (_with_hosts if resolved.get("type") == "ssh" else _with_login)(resolved, connection_of)


def refuse_secrets(config: Mapping[str, Any]) -> None:
    """Refuse secrets in a plain dictionary: they would be shown with the task's fields and travel with its trigger.

    :raises RequestError: the dictionary has one.
    """
    options = {option.name: option for of_target in targets.OPTIONS.values() for option in of_target if option.secret}
    hosts = listed_hosts({"hosts": config.get("hosts")})
    for name in [name for fields in (config, *hosts) for name in options if fields.get(name)]:
        if options[name].kind is Kind.REGISTRY:
            raise RequestError(f"compute_target: {name} is a secret; name a docker connection by {DOCKER_CONN_ID}")
        raise RequestError(f"compute_target: {name} is a secret; name an ssh connection by {SSH_CONN_ID}, or give key_file")


def _with_registry_login(config: dict[str, Any], connection_of: ConnectionOf) -> dict[str, Any]:
    conn_id = str(config.pop(DOCKER_CONN_ID, None) or "")
    if not conn_id:
        return config
    connection = _of_type(DOCKER, DOCKER_CONN_ID, conn_id, connection_of)
    server = f"{connection.host}:{connection.port}" if connection.host and connection.port else connection.host
    login = {"server": server or "", "username": connection.login or "", "password": connection.password or ""}
    return {**config, "registry_login": login}


def _with_login(config: dict[str, Any], connection_of: ConnectionOf) -> dict[str, Any]:
    """Return a configuration with its one login; its own values come before those of the connection."""
    conn_id = str(config.pop(SSH_CONN_ID, None) or "")
    return {**_login_fields(conn_id, connection_of), **config} if conn_id else config


def _with_hosts(config: dict[str, Any], connection_of: ConnectionOf) -> dict[str, Any]:
    """Return a configuration with a login for each host.

    A host's own values come first, then those of the configuration, then those of the connection. Without hosts, the
    connection's own host is the only one.
    """
    shared = str(config.pop(SSH_CONN_ID, None) or "")
    hosts = listed_hosts(config) or ([{}] if shared else [])
    ids = [str(host.pop(SSH_CONN_ID, None) or "") for host in hosts]
    if not shared and not any(ids):
        return config
    logins = {conn_id: _login_fields(conn_id, connection_of) for conn_id in dict.fromkeys([*ids, shared]) if conn_id}
    of_all = {name: value for name, value in logins.get(shared, {}).items() if name not in config or name in HOSTS}
    joined = [_joined(host, logins[own] if own else of_all) for host, own in zip(hosts, ids, strict=True)]
    return {**{name: value for name, value in config.items() if name not in HOSTS}, "hosts": joined}


def _joined(host: dict[str, Any], login: dict[str, Any]) -> dict[str, Any]:
    """Return a host with its login; the key of the login's host is not that of another host."""
    elsewhere = host.get("host") not in (None, "", login.get("host")) or ("name" in host and "host" not in host)
    taken = {name: value for name, value in login.items() if not (elsewhere and name in ("host", "host_key"))}
    name = {} if host.get("name") else {"name": str(host.get("host") or login.get("host") or "")}
    return {**taken, **name, **{key: value for key, value in host.items() if value not in (None, "")}}


def _login_fields(conn_id: str, connection_of: ConnectionOf) -> dict[str, Any]:
    """Return an ssh provider's connection as options of a login, without empty ones."""
    connection = _of_type(SSH, SSH_CONN_ID, conn_id, connection_of)
    extra = connection.extra_dejson
    fields = {
        "host": connection.host,
        "port": connection.port,
        "user": connection.login,
        "password": connection.password,
        **{option: extra.get(name) for option, name in _EXTRAS.items()},
    }
    if str(extra.get("no_host_key_check", "")).lower() == "true" and not extra.get("host_key"):
        fields["host_key_check"] = "false"
    return {name: value for name, value in fields.items() if value not in (None, "")}


def _of_type(conn_type: str, option: str, conn_id: str, connection_of: ConnectionOf) -> Connection:
    connection = connection_of(conn_id)
    if connection.conn_type != conn_type:
        raise RequestError(
            f"connection {conn_id!r} has type {connection.conn_type!r}; {option} must name one of type {conn_type!r}"
        )
    return connection
