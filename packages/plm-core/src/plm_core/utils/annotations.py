"""Checks of values against annotations."""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def check_fields(instance: Any) -> None:
    """Check every field of a dataclass, and of the dataclasses in it, against its annotation.

    Raises:
        TypeError: A value is of another type; the message names class, field, value and annotation.
    """
    hints = type_hints(type(instance))  # type: ignore[arg-type]  # mypy does not see that classes are hashable
    for field in fields(instance):
        value = getattr(instance, field.name)
        if not fits(value, hints[field.name]):
            name = f"{type(instance).__name__}.{field.name}"
            raise TypeError(f"{name} is {reprlib.repr(value)}; {field.type} is expected")
        for part in value if isinstance(value, tuple) else (value,):
            if is_dataclass(part) and not isinstance(part, type):
                check_fields(part)


@functools.cache  # resolving a class's annotations takes longer than anything else at start-up
def type_hints(kind: Callable[..., object]) -> dict[str, Any]:
    """Return the annotations of a class or a function, resolved."""
    return get_type_hints(kind)


def fits(value: object, hint: Any) -> bool:
    """Return whether a value is of an annotated type: a class, union, tuple, sequence, mapping, literal, or a generic.

    Of other generics only the origin is checked. Integers count as floats. True and False do not count as numbers, nor
    does a text as a sequence.
    """
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if origin in (Union, UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        hints = args[:1] * len(value) if Ellipsis in args else args
        return len(value) == len(hints) and all(map(fits, value, hints))
    if args and isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, origin) and all(fits(k, args[0]) and fits(v, args[1]) for k, v in value.items())
    if origin is Sequence:
        return (
            isinstance(value, Sequence) and not isinstance(value, str | bytes) and all(fits(x, args[0]) for x in value)
        )
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else origin or hint)


def describe(hint: Any) -> str:
    """Say in words what an annotation allows: ``float | None`` -> "float or None"."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        *most, last = map(repr, args)
        return f"{', '.join(most)} or {last}" if most else last
    if origin in (Union, UnionType):
        return " or ".join(map(describe, args))
    if origin is Callable:
        return "a function"
    if hint is type(None):
        return "None"
    return hint.__name__ if isinstance(hint, type) and origin is None else str(hint).replace("typing.", "")
