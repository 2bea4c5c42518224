"""Resolves the ranks' secrets from Airflow's connections and variables, masked in every log of this process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from airflow.sdk import BaseHook, Connection, Variable
from airflow.sdk.exceptions import AirflowNotFoundException, AirflowRuntimeError
from airflow.sdk.log import mask_secret

from muster.core.errors import RequestError

_FIELD = re.compile(r"(?P<conn>.+?)\.(?P<field>password|login|host|schema|extra\..+)", re.S)
_MISSING = (AirflowNotFoundException, AirflowRuntimeError, KeyError)


def resolve_secrets(sources: Mapping[str, str]) -> dict[str, str]:
    """Return the values of secrets, each named by its source.

    A source is ``variable:NAME``, ``connection:ID.field`` (field: password, login, host, schema or ``extra.KEY``; default
    password), or a bare name: the password of a connection of that name, else the variable.

    :raises RequestError: a source does not exist, or has no such field.
    """
    values = {name: _value(name, source) for name, source in sources.items()}
    for value in values.values():
        mask_secret(value)
    return values


def _value(name: str, source: str) -> str:
    kind, separator, rest = source.partition(":")
    if separator and kind == "variable":
        return _variable(name, rest)
    if separator and kind == "connection":
        return _from_connection(name, rest)
    try:
        return _from_connection(name, f"{source}.password")
    except RequestError:
        return _variable(name, source)


def _variable(name: str, key: str) -> str:
    try:
        return str(Variable.get(key))
    except _MISSING as error:
        raise RequestError(
            f"secret {name!r}: there is no airflow variable {key!r}; create it, or correct its source"
        ) from error


def _from_connection(name: str, location: str) -> str:
    match = _FIELD.fullmatch(location)
    conn_id, field = (match["conn"], match["field"]) if match else (location, "password")
    try:
        connection = BaseHook.get_connection(conn_id)
    except _MISSING as error:
        raise RequestError(
            f"secret {name!r}: there is no airflow connection {conn_id!r}; create it, or correct its source"
        ) from error
    value = _field(connection, field)
    if not value:
        raise RequestError(f"secret {name!r}: connection {conn_id!r} has no {field}; fill it in, or name another field")
    return str(value)


def _field(connection: Connection, field: str) -> Any:
    if field.startswith("extra."):
        return connection.extra_dejson.get(field.removeprefix("extra."))
    return getattr(connection, field)
