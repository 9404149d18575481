# SPDX-License-Identifier: GPL-3.0-or-later
"""Dataclasses to JSON and back, between this program and the processes that read a guest's files for it.

Such a process is not trusted: it may have been taken over by what it read. So the way back checks every type and bounds
every length, and nothing but the declared fields comes through.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

MAX_TEXT = 4096
MAX_ITEMS = 4096
_T = TypeVar("_T")


class RecordError(ValueError):
    """The document is not what was declared; the text names the field."""


def to_json(record: object) -> str:
    """A dataclass instance as one JSON document."""
    return json.dumps(dataclasses.asdict(typing.cast(Any, record)))


def from_json(kind: type[_T], text: str | bytes) -> _T:
    """The inverse of :func:`to_json`. Raises RecordError."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not JSON ({error or 'no text'})") from None
    return decode(kind, document)


def decode(kind: type[_T], document: object, where: str = "document") -> _T:
    """``document`` (parsed JSON) as a dataclass of str, int, float, bool, None, tuples of these and dataclasses."""
    if not isinstance(document, Mapping):
        raise RecordError(f"{where} is {type(document).__name__}, not an object")
    hints = _hints(typing.cast(Any, kind))
    if unknown := sorted(set(document) - set(hints)):
        raise RecordError(f"{where} has the unknown field {unknown[0][:64]!r}")
    values = {name: _value(hint, document[name], f"{where}.{name}") for name, hint in hints.items() if name in document}
    try:
        return kind(**values)
    except TypeError as error:
        raise RecordError(f"{where}: {error}") from None


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return {name: hint for name, hint in typing.get_type_hints(kind).items() if name in _fields(kind)}


def _fields(kind: Any) -> set[str]:
    return {item.name for item in dataclasses.fields(kind)}


def _value(hint: Any, value: object, where: str) -> object:
    origin = typing.get_origin(hint)
    if origin in {typing.Union, types.UnionType}:
        if value is None and type(None) in typing.get_args(hint):
            return None
        (inner,) = (item for item in typing.get_args(hint) if item is not type(None))
        return _value(inner, value, where)
    if origin is tuple:
        return _items(typing.get_args(hint), value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return decode(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if value.__class__ is not hint:
        raise RecordError(f"{where} is {type(value).__name__}, not {getattr(hint, '__name__', hint)}")
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise RecordError(f"{where} is longer than {MAX_TEXT} characters")
    return value


def _items(kinds: tuple[Any, ...], value: object, where: str) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise RecordError(f"{where} is {type(value).__name__}, not a list")
    if len(value) > MAX_ITEMS:
        raise RecordError(f"{where} has more than {MAX_ITEMS} items")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_value(kinds[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if len(value) != len(kinds):
        raise RecordError(f"{where} has {len(value)} items, not {len(kinds)}")
    return tuple(_value(kind, item, where) for kind, item in zip(kinds, value, strict=True))
