"""Hook of the run store: an ``aws`` connection, or the standard ``AWS_*`` variables, as access to the store."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook
from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from muster.core.errors import MusterError, RequestError
from muster.core.store_access import StoreAccess
from muster.store.run_store import RunStore

_UNVERIFIED = (
    "aws connection %r says verify = false, which muster does not do: the store's certificate is verified all the same; give "
    "the file of its CA as verify"
)


class RunStoreHook(BaseHook):
    """
    Opens the run store.

    :param store: ``s3://bucket/prefix``
    :param aws_conn_id: id of an ``aws`` connection, whose extra may have ``endpoint_url`` for any S3-compatible store; None
        takes the worker's ``AWS_*`` variables
    """

    conn_name_attr = "aws_conn_id"

    def __init__(self, aws_conn_id: str | None = None, store: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.aws_conn_id = aws_conn_id
        self.store = store

    def get_access(self) -> StoreAccess:
        """Return endpoint and credentials; without any in the connection, the nodes use their own role."""
        return self.get_expiring_access()[0]

    def get_expiring_access(self) -> tuple[StoreAccess, datetime | None]:
        """Return endpoint and credentials, and when the credentials expire; None where they don't, or the time is unknown."""
        if not self.aws_conn_id:
            return StoreAccess.from_environment(os.environ), None
        self._require_connection(self.aws_conn_id)
        hook: AwsGenericHook[Any] = AwsGenericHook(aws_conn_id=self.aws_conn_id, client_type="s3")
        if hook.verify is False:
            self.log.warning(_UNVERIFIED, self.aws_conn_id)
        return access_of(hook)

    def _require_connection(self, conn_id: str) -> None:
        try:  # the amazon provider would go on without it, with whatever credentials the worker happens to have
            self.get_connection(conn_id)
        except AirflowNotFoundException as error:
            raise RequestError(
                f"aws_conn_id: there is no airflow connection {conn_id!r}; create it, or leave it out"
            ) from error

    def run_store(self) -> RunStore:
        """Open the store."""
        return RunStore(self.store, self.get_access())

    def get_conn(self) -> RunStore:
        """Open the store, by the name that Airflow's hooks have for it."""
        return self.run_store()

    def test_connection(self) -> tuple[bool, str]:
        """Check that the store is reachable and writable."""
        try:
            self.run_store().check()
        except MusterError as error:
            return False, str(error)
        return True, f"{self.store}: reachable and writable"


def access_of(hook: AwsGenericHook[Any]) -> tuple[StoreAccess, datetime | None]:
    """Return the access that the amazon provider has of a connection, and when its credentials expire."""
    connection = hook.conn_config
    key, secret, token, expiry = _credentials(hook, connection)
    verify = connection.verify
    access = StoreAccess(
        endpoint_url=connection.get_service_endpoint_url("s3") or "",
        access_key=key,
        secret_key=secret,
        session_token=token,
        region=connection.region_name or StoreAccess.region,
        verify=verify if isinstance(verify, str) else "",
    )
    return access, expiry


def _credentials(hook: AwsGenericHook[Any], connection: AwsConnectionWrapper) -> tuple[str, str, str, datetime | None]:
    if connection.role_arn or connection.profile_name:
        return _of_session(hook.get_session())
    return connection.aws_access_key_id or "", connection.aws_secret_access_key or "", connection.aws_session_token or "", None


def _of_session(session: Any) -> tuple[str, str, str, datetime | None]:
    """Return a session's current credentials; those that botocore would renew have an expiry time."""
    credentials = session.get_credentials()
    frozen = credentials.get_frozen_credentials()
    for secret in filter(None, (frozen.secret_key, frozen.token)):
        mask_secret(secret)
    return frozen.access_key or "", frozen.secret_key or "", frozen.token or "", getattr(credentials, "_expiry_time", None)
