"""Frozen dataclasses to JSON and back, driven by type hints; unknown keys are ignored, so newer writers can be read."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, TypeVar

T = TypeVar("T")
Builder = Callable[[Any], Any]
_PLAIN = (str, int, float, bool, type(None))


def to_data(value: Any) -> Any:
    """Return the plain JSON data of a value: dataclasses become dicts, tuples lists, enums their values."""
    if type(value) in _PLAIN:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: to_data(getattr(value, name)) for name in _names(type(value))}
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
    hint: Any = kind
    return typing.cast(T, _builder(hint)(data))


def canonical(value: Any) -> bytes:
    """Return the canonical JSON text of a value: sorted keys, no spaces, UTF-8."""
    return json.dumps(to_data(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: Any) -> str:
    """Return ``sha256:<hex>`` of the canonical JSON of a value."""
    return "sha256:" + hashlib.sha256(canonical(value)).hexdigest()


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


@cache
def _field_builders(kind: type) -> tuple[tuple[str, Builder], ...]:
    hints = typing.get_type_hints(kind)
    return tuple((name, _builder(hints[name])) for name in _names(kind))


@cache
def _builder(hint: Any) -> Builder:
    """Return what builds values of a type; made once for each, since an answer can list a hundred thousand files."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return partial(_build_union, args)
    if origin in (tuple, list):
        return partial(_build_sequence, origin, args)
    if origin in (dict, Mapping):
        return partial(_build_dict, _builder(args[1]))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return partial(_build_dataclass, hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint
    return partial(_of_type, hint) if hint in _PLAIN else lambda data: data


def _of_type(kind: type[T], data: Any) -> T:
    if type(data) is kind or (isinstance(data, kind) and not isinstance(data, bool)):
        return data
    if kind is not float or type(data) is not int:
        raise ValueError(f"{kind.__name__} expected, got {data!r}")
    try:
        return typing.cast(T, float(data))
    except OverflowError:
        raise ValueError(f"{data!r} is too large") from None


def _build_union(options: tuple[Any, ...], data: Any) -> Any:
    if data is None and type(None) in options:
        return None
    for option in options:
        if isinstance(option, type) and isinstance(data, option):
            return data
    structured = [o for o in options if o is not type(None)]
    if len(structured) == 1:
        return _builder(structured[0])(data)
    for option in structured:
        if isinstance(data, dict) and _has_fields(option, data):
            return _builder(option)(data)
        if isinstance(data, list) and typing.get_origin(option) is tuple:
            return _builder(option)(data)
    raise ValueError(f"{data!r} fits none of {options}")


def _has_fields(option: Any, data: Mapping[str, Any]) -> bool:
    return dataclasses.is_dataclass(option) and {f.name for f in dataclasses.fields(option)} == set(data)


def _build_dict(item: Builder, data: Any) -> dict[str, Any]:
    return {key: item(value) for key, value in _of_type(dict, data).items()}


def _build_sequence(kind: type[Any], args: tuple[Any, ...], data: Any) -> Any:
    if not isinstance(data, (list, tuple)):
        raise ValueError(f"{kind.__name__} expected, got {data!r}")
    if kind is list or (len(args) == 2 and args[1] is Ellipsis):
        return kind(map(_builder(args[0]), data))
    return kind(_builder(arg)(item) for arg, item in zip(args, data, strict=True))


def _build_dataclass(kind: Any, data: Any) -> Any:
    if not isinstance(data, Mapping):
        raise ValueError(f"{kind.__name__} wants an object, got {data!r}")
    known, name = {}, ""
    try:
        for name, build in _field_builders(kind):
            if name in data:
                known[name] = build(data[name])
    except ValueError as error:
        raise ValueError(f"{kind.__name__}.{name}: {error}") from error
    try:
        return kind(**known)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from error
