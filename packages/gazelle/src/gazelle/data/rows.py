"""Lines, numbers and boxes of annotation files. What cannot be used is a ValueError that says why in a few words."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gazelle.data.annotations import OUTSIDE, Box, Point
from plm_core import InputError
from plm_core.utils.text import shown


def lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file that are not empty, with their numbers from 1.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        with open(file, "rb") as content:
            for number, line in enumerate(content, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, line
    except OSError as e:
        raise InputError(f"annotations {str(file)!r} cannot be read: {e.strerror}") from e


def fields(line: bytes, count: int) -> list[str]:
    """Return the fields of a line of comma-separated values, without white space around them.

    Raises:
        ValueError: It has fewer than ``count``, or is no text.
    """
    try:
        row = [text.strip() for text in next(csv.reader([line.decode()]))]
    except UnicodeDecodeError as e:
        raise ValueError(f"no UTF-8, byte {e.start + 1}") from e
    except csv.Error as e:
        raise ValueError(f"no comma-separated values: {e}") from e
    if len(row) < count:
        raise ValueError(f"{len(row)} columns, {count} are needed")
    return row


def numbers(values: Sequence[Any], name: str) -> list[float]:
    """Return finite numbers.

    Raises:
        ValueError: One is none. The message has ``name``, which says what they are.
    """
    found = []
    for value in values:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number) or isinstance(value, bool):
            raise ValueError(f"{name} {shown(repr(value), 40)} is no number")
        found.append(number)
    return found


def head_box(corners: Sequence[float], width: float, height: float) -> Box:
    """Return a box (x0, y0, x1, y1) in fractions, in order and clipped to its picture.

    Args:
        corners: The box in the units of ``width`` and ``height``. Reversed ends are swapped.
        width: The width of the picture.
        height: The height of the picture.
    """
    x0, x1 = sorted(min(max(x / width, 0.0), 1.0) for x in corners[::2])
    y0, y1 = sorted(min(max(y / height, 0.0), 1.0) for y in corners[1::2])
    return x0, y0, x1, y1


def gaze_point(x: float, y: float, width: float, height: float) -> Point:
    """Return a gaze point in fractions. Two negative numbers are a target outside; a single one becomes 0."""
    if x < 0 and y < 0:
        return OUTSIDE
    return max(x, 0.0) / width, max(y, 0.0) / height
