"""Frozen dataclasses to JSON and back, driven by type hints; unknown keys are ignored, so newer writers can be read."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
_PLAIN = (str, int, float, bool, type(None))


def to_data(value: Any) -> Any:
    """Return the plain JSON data of a value: dataclasses become dicts, tuples lists, enums their values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_data(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_data(item) for item in value]
    return value


def from_data(kind: type[T], data: Any) -> T:
    """Build a value of dataclass ``kind`` from plain data.

    :raises ValueError: a field without default is missing, or a value has the wrong shape.
    """
    return typing.cast(T, _build(kind, data))


def canonical(value: Any) -> bytes:
    """Return the canonical JSON text of a value: sorted keys, no spaces, UTF-8."""
    return json.dumps(to_data(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: Any) -> str:
    """Return ``sha256:<hex>`` of the canonical JSON of a value."""
    return "sha256:" + hashlib.sha256(canonical(value)).hexdigest()


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _build(hint: Any, data: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _build_union(typing.get_args(hint), data)
    if origin in (tuple, list):
        return _build_sequence(origin, typing.get_args(hint), data)
    if origin in (dict, Mapping):
        item = typing.get_args(hint)[1]
        return {key: _build(item, value) for key, value in _of_type(dict, data).items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _build_dataclass(hint, data)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(data)
    return _of_type(hint, data) if hint in _PLAIN else data


def _of_type(kind: type[T], data: Any) -> T:
    if kind is float and type(data) is int:
        data = float(data)
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise ValueError(f"{kind.__name__} expected, got {data!r}")
    return data


def _build_union(options: tuple[Any, ...], data: Any) -> Any:
    if data is None and type(None) in options:
        return None
    for option in options:
        if isinstance(option, type) and isinstance(data, option):
            return data
    structured = [o for o in options if o is not type(None)]
    if len(structured) == 1:
        return _build(structured[0], data)
    for option in structured:
        if isinstance(data, dict) and _has_fields(option, data):
            return _build(option, data)
        if isinstance(data, list) and typing.get_origin(option) is tuple:
            return _build(option, data)
    raise ValueError(f"{data!r} fits none of {options}")


def _has_fields(option: Any, data: Mapping[str, Any]) -> bool:
    return dataclasses.is_dataclass(option) and {f.name for f in dataclasses.fields(option)} == set(data)


def _build_sequence(kind: type[Any], args: tuple[Any, ...], data: Any) -> Any:
    if not isinstance(data, (list, tuple)):
        raise ValueError(f"{kind.__name__} expected, got {data!r}")
    if kind is list or (len(args) == 2 and args[1] is Ellipsis):
        return kind(_build(args[0], item) for item in data)
    return kind(_build(arg, item) for arg, item in zip(args, data, strict=True))


def _build_dataclass(kind: type, data: Any) -> Any:
    if not isinstance(data, Mapping):
        raise ValueError(f"{kind.__name__} wants an object, got {data!r}")
    hints, known = _hints(kind), {}
    for name in (f.name for f in dataclasses.fields(kind) if f.name in data):
        try:
            known[name] = _build(hints[name], data[name])
        except ValueError as error:
            raise ValueError(f"{kind.__name__}.{name}: {error}") from error
    try:
        return kind(**known)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from error
