"""Coercions: a parameter's value, often a rendered template, to the type it must have; an error names parameter and value."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from numbers import Number
from typing import Any

from muster.core.errors import RequestError

_WHOLE = re.compile(r"[+-]?[0-9]+")
_SIZE = re.compile(r"(?P<count>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[kmgt]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": False}


def whole(name: str, value: Any, *, least: int) -> int:
    """Return a whole number; texts such as ``"2"`` are read, for templates."""
    readable = value.is_integer() if isinstance(value, float) else isinstance(value, str) and _WHOLE.fullmatch(value.strip())
    number = int(value) if readable else value
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise RequestError(f"{name} must be a whole number from {least} on, got {value!r}; give for example {max(least, 2)}")
    return number


def seconds(name: str, value: Any, *, zero: bool) -> float:
    """Return a duration in seconds; ``zero`` allows 0."""
    number = _number(name, value)
    if number < 0 or (number == 0 and not zero):
        raise RequestError(
            f"{name} must be {'0 or more' if zero else 'more than 0'} seconds, got {value!r}; give for example 60"
        )
    return number


def amount(name: str, value: Any) -> float:
    """Return a number that is not negative."""
    number = _number(name, value)
    if number < 0:
        raise RequestError(f"{name} can't be negative, got {value!r}; give 0 to ask for nothing in particular")
    return number


def _number(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RequestError(f"{name} must be a number, got {value!r}")
    return number


def size(name: str, value: Any) -> int:
    """Return a number of bytes, of a number or a text such as ``"16g"`` or ``"512MiB"``; units are powers of 1024."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        return int(float(match["count"]) * _UNITS[match["unit"].lower()])
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise RequestError(f'{name} must be a number of bytes, or a text such as "16g", got {value!r}')


def flag(name: str, value: Any) -> bool:
    """Return a truth value; the texts that templates make of one are read."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _FLAGS:
        return _FLAGS[value.strip().lower()]
    raise RequestError(f"{name} must be true or false, got {value!r}")


def text(name: str, value: Any) -> str:
    """Return a text: exactly as it is, or how Python writes the number, truth value or path."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, Number):
        value = str(value)
    if not isinstance(value, str):
        raise RequestError(f'{name} must be a text, got {value!r}; give "" for an empty one')
    _check_travels(name, value)
    return value


def line(name: str, value: Any) -> str:
    """Return a text without line breaks and other control characters."""
    if isinstance(value, bool):
        raise RequestError(f"{name} must be a text, got {value!r}")
    result = text(name, value)
    if not result.strip() or not result.isprintable():
        raise RequestError(f"{name} must be one line of text, got {result!r}")
    return result


def texts(name: str, value: Any) -> tuple[str, ...]:
    """Return a tuple of texts."""
    if not isinstance(value, (list, tuple)):
        raise RequestError(f'{name} must be a list of texts, got {value!r}; give for example ["first", "second"]')
    return tuple(text(f"{name}[{index}]", item) for index, item in enumerate(value))


def text_map(name: str, value: Any) -> dict[str, str]:
    """Return texts by name, in order."""
    return {key: text(f"{name}[{key!r}]", item) for key, item in mapping(name, value).items()}


def mapping(name: str, value: Any) -> dict[str, Any]:
    """Return values by name, in order."""
    if not isinstance(value, Mapping):
        raise RequestError(f'{name} must be a mapping, got {value!r}; give for example {{"name": "value"}}')
    return {text(f"a name in {name}", key): item for key, item in value.items()}


def _check_travels(name: str, value: str) -> None:
    """Refuse what no argument or variable of a process can hold."""
    if "\0" in value:
        raise RequestError(f"{name} has a NUL character, which no argument or variable can hold: {value!r}; take it out")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{name} is no valid unicode text: {value!r} ({error.reason})") from error
