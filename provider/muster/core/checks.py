"""Checks of single values: each gives the value in its one form, or says what was wrong, the value seen and what is wanted."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from muster.core.errors import RequestError

_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def count(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least ``least``; a numeric text, as templates give it, counts."""
    number = _number(name, value, "a whole number")
    if number != int(number):
        raise RequestError(f"{name} must be a whole number, got {value!r}")
    if number < least:
        raise RequestError(f"{name} must be at least {least}, got {value!r}")
    return int(number)


def positive(name: str, value: Any) -> float:
    """A number above 0."""
    number = _number(name, value, "a number")
    if number <= 0:
        raise RequestError(f"{name} must be more than 0, got {value!r}")
    return number


def _number(name: str, value: Any, wanted: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RequestError(f"{name} must be {wanted}, got {value!r}")
    return number


def text(name: str, value: Any) -> str:
    """A text; numbers are taken as they are written."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise RequestError(f"{name} must be a text, got {value!r}")
    if isinstance(value, str) and "\0" in value:
        raise RequestError(f"{name} holds a NUL character, which no process can be given: {value!r}")
    return str(value)


def texts(name: str, value: Any) -> tuple[str, ...]:
    """A list of texts."""
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        raise RequestError(f"{name} must be a list, got {value!r}")
    return tuple(text(f"{name}[{index}]", item) for index, item in enumerate(value))


def by_name(name: str, value: Any) -> dict[str, Any]:
    """A mapping with texts as keys."""
    if not isinstance(value, Mapping):
        raise RequestError(f"{name} must be a mapping, got {value!r}")
    return {text(f"a key of {name}", key): item for key, item in value.items()}


def texts_by_name(name: str, value: Any) -> dict[str, str]:
    """A mapping of texts."""
    return {key: text(f"{name}[{key!r}]", item) for key, item in by_name(name, value).items()}


def flag(name: str, value: Any) -> bool:
    """True or False; also as the words that templates give."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise RequestError(f"{name} must be true or false, got {value!r}")


def one_of(name: str, value: Any, known: tuple[str, ...]) -> str:
    """One of some words, in any case."""
    word = text(name, value).lower()
    if word not in known:
        raise RequestError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return word


def memory(name: str, value: Any) -> int:
    """Bytes: a number, or a text such as ``16g``."""
    match = _MEMORY.fullmatch(str(value).strip())
    if match is None or isinstance(value, bool):
        raise RequestError(f"{name} must be bytes or a text like '16g', got {value!r}")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def variable_name(name: str) -> str:
    """The name of an environment variable that users may set."""
    if not _VARIABLE.fullmatch(name):
        raise RequestError(f"{name!r} is no name of an environment variable; letters, digits and _ make one")
    if name.startswith("MUSTER_"):
        raise RequestError(f"variable {name!r} is set by Muster itself; choose another name")
    return name
