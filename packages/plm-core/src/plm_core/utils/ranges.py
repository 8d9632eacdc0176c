"""The ranges of constructors' arguments, by name: in one package an argument means the same in every model.

Values out of their range would otherwise fail deep inside torch, or give a model of NaN without a word.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from plm_core.errors import InputError

MOST = 2**20
"""The largest size or number of anything, so that a slip of the pen does not ask for all memory."""
Range = tuple[Callable[[Any], bool], str, str]
"""A test, what it allows in words, and the names of the arguments that it is for, with spaces between them."""


def whole(value: Any, least: int = 1) -> bool:
    """Return whether a value is a whole number from ``least`` to `MOST`."""
    return isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= MOST


def real(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def rate(value: Any) -> bool:
    """Return whether a value is a number from 0 to less than 1."""
    return real(value) and 0 <= value < 1


class Ranges:
    """The ranges of a package's arguments.

    Args:
        ranges: The ranges.
    """

    def __init__(self, ranges: Sequence[Range]) -> None:
        self.by_name = {name: (test, allowed) for test, allowed, names in ranges for name in names.split()}

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Check arguments that have a range; others are ignored.

        Args:
            arguments: Arguments by name, for example ``locals()`` at the top of a constructor.

        Raises:
            InputError: An argument is out of its range.
        """
        for name, value in arguments.items():
            if name in self.by_name and not self.by_name[name][0](value):
                raise InputError(f"{name} {_shown(value)} is not allowed: {self.by_name[name][1]} is")


def check_choice(name: str, value: Any, allowed: Collection[str]) -> None:
    """Raise an InputError unless a value is one of the strings that are allowed for the argument ``name``."""
    if not isinstance(value, str) or value not in allowed:
        *others, last = map(repr, allowed)
        raise InputError(f"{name} {_shown(value)} is not allowed: {', '.join(others)} and {last} are")


def _shown(value: Any) -> str:
    return " ".join(reprlib.repr(value).split())
