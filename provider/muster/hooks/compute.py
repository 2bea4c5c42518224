"""ComputeHook: a connection of type ``muster`` as the plain configuration of a compute target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from muster import doctor, targets
from muster.core.errors import MusterError, RequestError
from muster.hooks.hosts import refuse_secrets, with_hosts, with_login_node
from muster.targets.contract import ComputeTarget

THIS_MACHINE = "local"
SLURM = "slurm"
DOCKER = "docker"  # the docker provider's connections
DOCKER_CONN_ID = "docker_conn_id"


class NoConnection(RequestError):
    """There is no airflow connection of that id."""


class ComputeHook(BaseHook):
    """
    Gives the compute target that a connection describes.

    :param muster_conn_id: id of a ``muster`` connection; or the same fields as a plain dictionary; ``"local"`` and None mean
        this machine
    """

    conn_name_attr = "muster_conn_id"
    default_conn_name = "muster_default"
    conn_type = "muster"
    hook_name = "Muster"

    def __init__(self, muster_conn_id: str | Mapping[str, Any] | None = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.muster_conn_id = muster_conn_id

    def get_target_config(self) -> dict[str, Any]:
        """Give the target's configuration: ``{"type": "local", …}``."""
        if isinstance(self.muster_conn_id, Mapping):
            if "registry_login" in self.muster_conn_id:  # it would be shown with the task's fields and travel with its trigger
                raise RequestError(f"compute_target: registry_login is a secret; name a docker connection by {DOCKER_CONN_ID}")
            refuse_secrets(self.muster_conn_id)
            return self._with_logins(dict(self.muster_conn_id))
        if self.muster_conn_id in (None, "", THIS_MACHINE):
            return {"type": THIS_MACHINE}
        return self._with_logins(target_config(self._connection(str(self.muster_conn_id))))

    def _with_logins(self, config: dict[str, Any]) -> dict[str, Any]:
        """Put what other connections know in the place of their ids."""
        logged_in = with_login(config, self._connection)
        return (with_login_node if config.get("type") == SLURM else with_hosts)(logged_in, self._connection)

    def _connection(self, conn_id: str) -> Connection:
        try:
            return self.get_connection(conn_id)
        except AirflowNotFoundException as error:
            raise NoConnection(
                f"compute_target: there is no airflow connection {conn_id!r}; create it, or use 'local'"
            ) from error

    def get_target(self) -> ComputeTarget:
        """Open the target.

        :raises RequestError: no such type of target, or a field that it doesn't know.
        """
        return targets.open_target(self.get_target_config())

    def get_conn(self) -> ComputeTarget:
        """Open the target, by the name that Airflow's hooks have for it."""
        return self.get_target()

    def test_connection(self) -> tuple[bool, str]:
        """Look whether the target can be used, as ``muster doctor`` does; what is unfit is said first, with its remedy."""
        try:
            page = doctor.examine(self.get_target_config())
        except MusterError as error:
            return False, str(error)
        told = sorted(page.findings, key=lambda finding: finding.fine)
        return page.fit, "; ".join([page.summary(), *(str(finding) for finding in told)])


def with_login(config: dict[str, Any], connection_of: Callable[[str], Connection]) -> dict[str, Any]:
    """Put the login of the docker provider's connection that ``docker_conn_id`` names in its place."""
    conn_id = config.pop(DOCKER_CONN_ID, None)
    if not conn_id:
        return config
    connection = connection_of(str(conn_id))
    if connection.conn_type != DOCKER:
        raise RequestError(
            f"connection {conn_id!r} has type {connection.conn_type!r}; {DOCKER_CONN_ID} must name one of type {DOCKER!r}"
        )
    server = f"{connection.host}:{connection.port}" if connection.host and connection.port else connection.host
    return {
        **config,
        "registry_login": {"server": server or "", "username": connection.login or "", "password": connection.password or ""},
    }


def target_config(connection: Connection) -> dict[str, Any]:
    """Turn a connection into a target's configuration; fields left empty in the form are left out."""
    if connection.conn_type != ComputeHook.conn_type:
        raise RequestError(
            f"connection {connection.conn_id!r} has type {connection.conn_type!r}; "
            f"a compute target's must be {ComputeHook.conn_type!r}"
        )
    extra = {name: value for name, value in connection.extra_dejson.items() if value not in (None, "")}
    return {"type": extra.pop("target", THIS_MACHINE), **extra}
