"""Checks of arguments that several functions have. Nothing heavy is imported."""

from __future__ import annotations

import reprlib
from operator import index
from typing import Any

from plm_core.errors import InputError


def whole_number(value: Any, name: str, least: int = 0, most: int | None = None) -> int:
    """Return a whole number of any integer type as an int.

    Args:
        value: The value of an argument.
        name: Name of the argument, for the message.
        least: Smallest number that is allowed.
        most: Largest number that is allowed; None for no limit.

    Raises:
        InputError: It is no whole number, or too small or too large.
    """
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        upper = "" if most is None else f" to {most}"
        raise InputError(f"{name} is {reprlib.repr(value)}; a whole number from {least}{upper} is allowed")
    return number
