"""Hooks of compute targets: a connection, of the type of its target or a general one, as the target's plain configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from muster import doctor, targets
from muster.core.errors import MusterError, RequestError
from muster.hooks.logins import refuse_secrets, resolve_logins
from muster.targets.contract import ComputeTarget
from muster.targets.options import EMPTY

THIS_MACHINE = "local"
TYPE_PREFIX = "muster_"  # of a connection type, before its target
STANDARD_FIELDS = ("host", "port", "schema", "login", "password")


class NoConnection(RequestError):
    """The Airflow connection does not exist."""


class ComputeHook(BaseHook):
    """
    Opens the compute target that a connection describes.

    :param muster_conn_id: id of a connection of type ``muster_local``, ``muster_docker``, ``muster_ssh``, ``muster_slurm``, or
        ``muster`` with any target's options as JSON; or these options as a plain dictionary; ``"local"`` and None mean this
        machine
    """

    conn_name_attr = "muster_conn_id"
    default_conn_name = "muster_default"
    conn_type = "muster"
    hook_name = "Muster"

    def __init__(self, muster_conn_id: str | Mapping[str, Any] | None = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.muster_conn_id = muster_conn_id

    def get_target_config(self) -> dict[str, Any]:
        """Return the target's configuration: ``{"type": "local", …}``.

        :raises RequestError: no such connection, one of another type, or a field that its type does not use.
        """
        if isinstance(self.muster_conn_id, Mapping):
            refuse_secrets(self.muster_conn_id)
            return resolve_logins(self.muster_conn_id, self._connection)
        if self.muster_conn_id in (None, "", THIS_MACHINE):
            return {"type": THIS_MACHINE}
        return resolve_logins(target_config(self._connection(str(self.muster_conn_id))), self._connection)

    def _connection(self, conn_id: str) -> Connection:
        try:
            return self.get_connection(conn_id)
        except AirflowNotFoundException as error:
            raise NoConnection(
                f"compute_target: there is no airflow connection {conn_id!r}; create it, or use 'local'"
            ) from error

    def get_target(self) -> ComputeTarget:
        """Open the target.

        :raises RequestError: an unknown type of target or option, or a value that is not of its option's kind.
        """
        config = self.get_target_config()
        try:
            return targets.open_target(config)
        except RequestError as error:
            if isinstance(self.muster_conn_id, Mapping):
                raise
            raise RequestError(f"connection {self.muster_conn_id!r}: {error}") from error

    def get_conn(self) -> ComputeTarget:
        """Open the target, by the name that Airflow's hooks have for it."""
        return self.get_target()

    def test_connection(self) -> tuple[bool, str]:
        """Check the target as ``muster doctor`` does; findings that are unfit come first, each with its remedy."""
        try:
            page = doctor.examine(self.get_target_config())
        except MusterError as error:
            return False, str(error)
        findings = sorted(page.findings, key=lambda finding: finding.fine)
        return page.fit, "; ".join([page.summary(), *(str(finding) for finding in findings)])


class LocalComputeHook(ComputeHook):
    """Opens the local target that a connection of type ``muster_local`` describes."""

    conn_type = "muster_local"
    hook_name = "Muster local"


class DockerComputeHook(ComputeHook):
    """Opens the Docker engine that a connection of type ``muster_docker`` describes."""

    conn_type = "muster_docker"
    hook_name = "Muster Docker"


class SshComputeHook(ComputeHook):
    """Opens the SSH hosts that a connection of type ``muster_ssh`` describes."""

    conn_type = "muster_ssh"
    hook_name = "Muster SSH"


class SlurmComputeHook(ComputeHook):
    """Opens the Slurm cluster that a connection of type ``muster_slurm`` describes."""

    conn_type = "muster_slurm"
    hook_name = "Muster Slurm"


def target_config(connection: Connection) -> dict[str, Any]:
    """Return a connection as a target's configuration, without empty fields; its secrets are masked in logs.

    :raises RequestError: the connection is of another type, or has a standard field that its type does not use.
    """
    extra = {name: value for name, value in connection.extra_dejson.items() if value not in EMPTY}
    conn_type = connection.conn_type or ""
    target = conn_type.removeprefix(TYPE_PREFIX)
    if conn_type == ComputeHook.conn_type:
        target = str(extra.pop("target", THIS_MACHINE))
        standard = _standard_values(connection, {})
    elif conn_type.startswith(TYPE_PREFIX) and target in targets.OPTIONS:
        names = {option.standard: option.name for option in targets.OPTIONS[target] if option.standard}
        standard = _standard_values(connection, names)
    else:
        raise RequestError(
            f"connection {connection.conn_id!r} has type {conn_type!r}; a compute target's must be "
            f"{ComputeHook.conn_type!r} or one of {', '.join(TYPE_PREFIX + name for name in targets.OPTIONS)}"
        )
    config = {**extra, **standard}
    for option in targets.OPTIONS.get(target, ()):
        if option.secret and option.name in config:
            mask_secret(config[option.name])
    return {"type": target, **config}


def _standard_values(connection: Connection, names: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of standard fields by the names of their options."""
    values = {field: getattr(connection, field) for field in STANDARD_FIELDS if getattr(connection, field) not in (*EMPTY, 0)}
    unused = sorted(set(values) - set(names))
    if unused:
        used = f"use {', '.join(names)} and the extra fields" if names else "put the options into extra"
        raise RequestError(
            f"connection {connection.conn_id!r}: type {connection.conn_type!r} does not use the field {unused[0]}; clear it, "
            f"and {used}"
        )
    return {names[field]: value for field, value in values.items()}
