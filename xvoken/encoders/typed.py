"""JSON's values held against the annotations of a dataclass: files come from anywhere."""

import math
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, get_args, get_origin


def mistyped(kind: Any, said: dict[str, Any]) -> str:
    """What of `said` is not of its field's type in the dataclass `kind`, for a message; "" where all is. Keys without a field are left out.

    Known are int, float, str, list[...] of them, dict and None; a float is any finite number, an int at least 0.
    """
    wrong = [(field.name, said[field.name]) for field in fields(kind) if field.name in said and not _is(said[field.name], field.type)]
    return ", ".join(f"{name}: {str(value)[:60]!r}" for name, value in wrong)


def _is(value: Any, kind: Any) -> bool:
    if isinstance(kind, UnionType):
        return any(_is(value, one) for one in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is(one, get_args(kind)[0]) for one in value)
    if kind in (int, float):
        number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        return number and (value >= 0 if kind is int else math.isfinite(value))
    return isinstance(value, NoneType if kind is None else get_origin(kind) or kind)
