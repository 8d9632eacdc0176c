"""Small functions on text: sort keys, numbers for people, text from files in messages, names, literals."""

from __future__ import annotations

import ast
import re
from typing import Any

from plm_core.errors import PlmError, escaped


def natural_key(text: str) -> list[int | str]:
    """Return a sort key under which ``b2`` comes before ``b16``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text.lower())]


def millions(count: int) -> str:
    """Shorten a count for people: 27910216 -> ``27.9M``, 170338 -> ``170k``, 442 -> ``442``."""
    for size, letter, digits in ((1e6, "M", 1), (1e3, "k", 0)):
        if count >= size:
            return f"{count / size:.{digits}f}{letter}"
    return str(count)


def shown(text: str, longest: int = 80) -> str:
    """Return text that comes from a file for a message: what a terminal would obey is escaped, and the end is cut off.

    Args:
        text: Any text, such as the name of a tensor.
        longest: The number of characters that are kept.
    """
    line = escaped(text[: longest + 1])
    return line if len(line) <= longest else f"{line[:longest]}..."


def first_line(error: BaseException, empty: str = "", longest: int = 500) -> str:
    """Return the first line of an error's message for a terminal, at most ``longest`` characters of it.

    Without a message, or with one that cannot be read, it is ``empty``, or else the error's class.
    """
    try:
        lines = str(error).strip().splitlines()
    except BaseException:  # a foreign class may raise anything
        lines = []
    return shown((lines or [empty or type(error).__name__])[0], longest)


def describe(error: BaseException) -> str:
    """Return an error for a terminal as ``Class: first line of its message``."""
    return f"{shown(type(error).__name__)}: {first_line(error, empty='(no message)')}"


def said(error: BaseException) -> str:
    """Return the line of one of our errors, and an error of another kind with its class."""
    return first_line(error) if isinstance(error, PlmError) else describe(error)


def is_name(text: str) -> bool:
    """Return whether ``text`` can name something: letters, digits, '_' and '-' only, 1 to 100 of them."""
    return re.fullmatch(r"[\w-]{1,100}", text) is not None


def as_tuple(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return names as a tuple. timm's configurations give one as a string, several as a tuple, or None."""
    return (names,) if isinstance(names, str) else tuple(names or ())


def literal(text: str) -> Any:
    """Return the Python literal that a text of the command line stands for, or else the text itself."""
    try:
        return ast.literal_eval(text)
    # TypeError: a list as the key of a dict; RecursionError and MemoryError: thousands of operators or brackets
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
