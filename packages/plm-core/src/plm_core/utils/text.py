"""Small functions on text: sort keys, numbers for people, the first line of an error, names, literals."""

from __future__ import annotations

import ast
import re
from typing import Any


def natural_key(text: str) -> list[int | str]:
    """Return a sort key under which ``b2`` comes before ``b16``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text.lower())]


def millions(count: int) -> str:
    """Shorten a count for people: 27910216 -> ``27.9M``, 170338 -> ``170k``, 442 -> ``442``."""
    for size, letter, digits in ((1e6, "M", 1), (1e3, "k", 0)):
        if count >= size:
            return f"{count / size:.{digits}f}{letter}"
    return str(count)


def first_line(error: BaseException, empty: str = "") -> str:
    """Return the first line of an error's message. Without a message it is ``empty``, or else the error's class."""
    return (str(error).strip().splitlines() or [empty or type(error).__name__])[0]


def is_name(text: str) -> bool:
    """Return whether ``text`` can name a declaration: letters, digits, '_' and '-' only, at least one of them."""
    return re.fullmatch(r"[\w-]+", text) is not None


def as_tuple(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return names as a tuple. timm's configurations give one as a string, several as a tuple, or None."""
    return (names,) if isinstance(names, str) else tuple(names or ())


def literal(text: str) -> Any:
    """Return the Python literal that a text of the command line stands for, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):  # TypeError: a list as the key of a dict
        return text
