"""Declares an option of a target once: its name, kind and help, read by `open_target`, settings, connection forms and docs."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, unique
from typing import Any

from muster.core.errors import RequestError

DEFAULT_ROOT = "~/.muster"
REGISTRY_LOGIN = ("server", "username", "password")
EMPTY: tuple[Any, ...] = (None, "", (), [])
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")


@unique
class Kind(Enum):
    """Kind of an option's value, and the forms in which it may be written."""

    TEXT = "a text"
    LINES = "lines of text"
    SECRET = "a secret text"
    PATH = "a path"  # of a file where Muster runs; in muster.toml relative to it
    INTEGER = "a whole number"
    NUMBER = "a number above 0"
    SWITCH = "true or false"
    LIST = "a list, or a text with commas"
    WORDS = "a list, or a text that a shell could split"
    DEVICES = "a number of devices, or their ids"
    HOSTS = "lines, or a list of lines or mappings"
    REGISTRY = "a mapping with server, username, password"
    CONNECTION = "a connection id"


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option. ``help`` ends with what an empty value means.

    ``standard``: the standard field of an Airflow connection that has the value. ``group``: the part of the form in which it
    is shown. ``form``: whether forms show it. ``per_host``: whether one host of an inventory may have its own.
    """

    name: str
    label: str
    help: str
    kind: Kind = Kind.TEXT
    group: str = ""
    example: str = ""
    standard: str = ""
    form: bool = True
    per_host: bool = False

    @property
    def secret(self) -> bool:
        """Return whether the value must never be shown."""
        return self.kind in (Kind.SECRET, Kind.REGISTRY)

    def parse(self, value: Any, owner: str = "the target's") -> Any:
        """Return a value as its kind has it; None for an empty one.

        :raises RequestError: the value is not of this kind; secrets are not shown.
        """
        if value in EMPTY:
            return None
        try:
            return _PARSERS[self.kind](value)
        except (TypeError, ValueError) as error:
            shown = "" if self.secret else f", got {value!r}"
            reason = f" ({error})" if str(error) and not self.secret else ""
            raise RequestError(f"{owner} {self.name} must be {self.kind.value}{shown}{reason}{self._hint()}") from None

    def _hint(self) -> str:
        return f"; such as {self.example}" if self.example else ""


def parse_options(options: Iterable[Option], values: Mapping[str, Any], owner: str = "the target's") -> dict[str, Any]:
    """Return the values of options, parsed; empty ones and those of other options are left out.

    :raises RequestError: a value is not of its option's kind.
    """
    parsed = {option.name: option.parse(values[option.name], owner) for option in options if option.name in values}
    return {name: value for name, value in parsed.items() if value is not None}


def require_known(options: Iterable[Option], values: Iterable[str], owner: str) -> None:
    """Refuse names that no option has.

    :raises RequestError: there is one.
    """
    names = [option.name for option in options if option.kind is not Kind.CONNECTION]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise RequestError(f"{owner} has no option {unknown[0]!r}; it takes {', '.join(names)}")


def default_root() -> str:
    """Return the folder for jobs and caches of this machine: ``MUSTER_HOME``, else ``~/.muster``."""
    return os.environ.get("MUSTER_HOME") or DEFAULT_ROOT


def _text(value: Any) -> str:
    return str(value).strip()


def _integer(value: Any) -> int:
    text = str(value).strip()
    if not text.isdigit():
        raise ValueError
    return int(text)


def _number(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not 0 < number < float("inf"):
        raise ValueError
    return number


def _switch(value: Any) -> bool:
    text = str(value).strip().lower()
    if text not in TRUE + FALSE:
        raise ValueError
    return text in TRUE


def _list(value: Any) -> tuple[str, ...]:
    if isinstance(value, (int, str)):
        value = str(value).split(",")
    if not isinstance(value, (list, tuple)):
        raise TypeError
    return tuple(str(item).strip() for item in value if str(item).strip())


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(shlex.split(value))
    if not isinstance(value, (list, tuple)):
        raise TypeError
    return tuple(str(word) for word in value)


def _devices(value: Any) -> tuple[str, ...]:
    if isinstance(value, (list, tuple)) or "," in str(value):
        return _list(value)
    return tuple(str(number) for number in range(_integer(value)))


def _registry(value: Any) -> dict[str, str]:
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, Mapping) or set(value) - set(REGISTRY_LOGIN):
        raise TypeError
    return {name: str(item) for name, item in value.items() if item}


def _as_given(value: Any) -> Any:
    return value


_PARSERS: Mapping[Kind, Any] = {
    Kind.TEXT: _text,
    Kind.LINES: str,
    Kind.SECRET: str,
    Kind.PATH: _text,
    Kind.CONNECTION: _text,
    Kind.INTEGER: _integer,
    Kind.NUMBER: _number,
    Kind.SWITCH: _switch,
    Kind.LIST: _list,
    Kind.WORDS: _words,
    Kind.DEVICES: _devices,
    Kind.HOSTS: _as_given,
    Kind.REGISTRY: _registry,
}
