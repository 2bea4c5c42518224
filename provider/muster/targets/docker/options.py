"""Fields of a Docker target as connections, muster.toml and dictionaries write them: words, switches, a login."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from muster.core.errors import RequestError

LOGIN = ("server", "username", "password")


def words(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Give a list, which may be written as one text with commas."""
    value = fields.get(name) or ()
    if isinstance(value, (int, str)):
        value = str(value).split(",")
    if not isinstance(value, (list, tuple)):
        raise RequestError(f"the target's {name} must be a list or a text with commas, got {value!r}")
    return tuple(str(word).strip() for word in value if str(word).strip())


def flag(fields: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """Give a switch, which may be written as a text."""
    value = fields.get(name)
    if value is None or value == "":
        return default
    if isinstance(value, bool):
        return value
    if str(value).lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise RequestError(f"the target's {name} must be true or false, got {value!r}")
    return str(value).lower() in ("true", "1", "yes")


def login(value: Any) -> dict[str, str]:
    """Give a registry's login, which may be written as JSON; messages never show it."""
    if not value:
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, Mapping) or set(value) - set(LOGIN):
        raise RequestError(f"the target's registry_login must be a mapping with {', '.join(LOGIN)}")
    return {name: str(item) for name, item in value.items() if item}
