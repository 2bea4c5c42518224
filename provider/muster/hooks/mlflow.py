"""Hook of MLflow: an Airflow connection, or MLflow's own variables, as the plain configuration of a registry."""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from muster.core.errors import MusterError, RequestError
from muster.registry.mlflow_server import MlflowServer

VARIABLES = {
    "tracking_uri": "MLFLOW_TRACKING_URI",
    "username": "MLFLOW_TRACKING_USERNAME",
    "password": "MLFLOW_TRACKING_PASSWORD",
    "token": "MLFLOW_TRACKING_TOKEN",
    "verify": "MLFLOW_TRACKING_SERVER_CERT_PATH",
}
SECRET = ("password", "token")


class MlflowHook(BaseHook):
    """
    Returns the address of an MLflow server and the credentials for it.

    :param mlflow_conn_id: id of a connection, of type ``http`` or any other: host (with ``https://`` or the scheme in schema),
        port, login and password; its extra may have ``token`` instead, and ``verify``, a file of certificates, or ``false``.
        None takes the worker's ``MLFLOW_TRACKING_*`` variables
    """

    conn_name_attr = "mlflow_conn_id"

    def __init__(self, mlflow_conn_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mlflow_conn_id = mlflow_conn_id

    def get_config(self) -> dict[str, Any]:
        """Return the configuration for :func:`muster.registry.open_registry`; its secrets are masked in logs.

        :raises RequestError: there is no such connection, or it has no host.
        """
        fields = _of_connection(self._connection(self.mlflow_conn_id)) if self.mlflow_conn_id else _of_environment()
        for secret in filter(None, map(fields.get, SECRET)):
            mask_secret(secret)
        return {"type": "mlflow", **fields}

    def get_conn(self) -> MlflowServer:
        """Return the server, by the name that Airflow's hooks have for it."""
        return MlflowServer.from_fields(self.get_config())

    def test_connection(self) -> tuple[bool, str]:
        """Check that the server is reachable and accepts the credentials."""
        try:
            server = self.get_conn()
            server.check()
        except MusterError as error:
            return False, str(error)
        return True, f"{server.tracking_uri}: an MLflow server that accepts the credentials"

    def _connection(self, conn_id: str) -> Connection:
        try:
            return self.get_connection(conn_id)
        except AirflowNotFoundException as error:
            raise RequestError(
                f"mlflow_conn_id: there is no airflow connection {conn_id!r}; create it, or leave it out"
            ) from error


def _of_environment() -> dict[str, Any]:
    found = {name: os.environ.get(variable) for name, variable in VARIABLES.items()}
    if not found["tracking_uri"]:
        raise RequestError("registry mlflow: name a connection with mlflow_conn_id, or set MLFLOW_TRACKING_URI on the worker")
    return {name: value for name, value in found.items() if value}


def _of_connection(connection: Connection) -> dict[str, Any]:
    if not connection.host:
        raise RequestError(f"connection {connection.conn_id!r} has no host; fill in the address of the MLflow server")
    extra = connection.extra_dejson
    login = {"username": connection.login, "password": connection.password, "token": extra.get("token")}
    given = {name: value for name, value in login.items() if value}
    return {"tracking_uri": _address(connection), **given, "verify": extra.get("verify", True)}


def _address(connection: Connection) -> str:
    """Return the address as Airflow's HTTP hook would: the host may have the scheme, else schema has it."""
    host = str(connection.host)
    if "://" not in host:
        host = f"{connection.schema or ('https' if connection.conn_type == 'https' else 'http')}://{host}"
    return f"{host}:{connection.port}" if connection.port else host
