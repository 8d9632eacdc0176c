"""Checks of a dataclass's values against its annotations."""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints


def check_fields(instance: Any) -> None:
    """Check every field of a dataclass, and of the dataclasses in it, against its annotation.

    Raises:
        TypeError: A value is of another type; the message names class, field, value and annotation.
    """
    hints = type_hints(type(instance))  # type: ignore[arg-type]
    for field in fields(instance):
        value = getattr(instance, field.name)
        if not fits(value, hints[field.name]):
            name = f"{type(instance).__name__}.{field.name}"
            raise TypeError(f"{name} is {reprlib.repr(value)}; {field.type} is expected")
        for part in value if isinstance(value, tuple) else (value,):
            if is_dataclass(part) and not isinstance(part, type):
                check_fields(part)


@functools.cache  # resolving a class's annotations takes longer than anything else at start-up
def type_hints(kind: type[object]) -> dict[str, Any]:
    """Return the annotations of a class, resolved."""
    return get_type_hints(kind)


def fits(value: object, hint: Any) -> bool:
    """Return whether a value is of an annotated type: a class, union, tuple, mapping or literal, or a generic's origin.

    Integers count as floats. True and False do not count as numbers.
    """
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return value in args
    if origin is UnionType:
        return any(fits(value, arg) for arg in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        hints = args[:1] * len(value) if Ellipsis in args else args
        return len(value) == len(hints) and all(map(fits, value, hints))
    if args and isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, origin) and all(fits(k, args[0]) and fits(v, args[1]) for k, v in value.items())
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else origin or hint)
