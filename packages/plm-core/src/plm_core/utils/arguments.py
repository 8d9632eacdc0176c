"""Checks of arguments at the door of a public function, and a default that many of them share."""

from __future__ import annotations

from types import UnionType

from plm_core.errors import InputError

DEVICE = "auto"
"""The device of every command and function that runs a model, unless another is named: the accelerator if there is
one, else the CPU."""


def check_type(name: str, value: object, kinds: type | UnionType, expected: str) -> None:
    """Check the type of an argument.

    Args:
        name: Name of the argument.
        value: Its value.
        kinds: The types that are allowed.
        expected: These types in words, such as "a path".

    Raises:
        InputError: The value is of another type.
    """
    if not isinstance(value, kinds):
        article = "an" if type(value).__name__[0] in "aeiou" else "a"
        kind = "None" if value is None else f"{article} {type(value).__name__}"
        raise InputError(f"{name} is {kind}; {expected} is expected")
