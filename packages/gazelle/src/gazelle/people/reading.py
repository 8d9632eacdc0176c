"""Boxes that a person wrote: in a JSON file, or as text for an option.

A box is x0, y0, x1, y1. If one of its numbers is above 1 they are pixels, otherwise fractions of the picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from plm_core.errors import InputError
from plm_core.utils.text import shown

Box: TypeAlias = tuple[float, float, float, float]

EVERY = "*"
"""The name under which `read_boxes` returns boxes that are for every picture."""


def parse_box(text: str) -> Box:
    """Return the box in a text such as ``"0.1,0.2,0.3,0.5"``.

    Raises:
        InputError: It is no box.
    """
    name = f"box {shown(repr(text))}"
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{name} is not four numbers: x0,y0,x1,y1 is allowed") from None
    return _box(numbers, name)


def read_boxes(path: str | Path) -> dict[str, list[Box]]:
    """Read the boxes in a JSON file: ``{"photo.jpg": [[x0, y0, x1, y1], ...]}``, or a list of boxes for every picture.

    Returns:
        The boxes of each picture, by the names in the file, or those for every picture under `EVERY`. See `boxes_of`.

    Raises:
        InputError: The file cannot be read, or has something else in it. The message names the file and the box.
    """
    path = Path(path)
    content = _json(path)
    if isinstance(content, list):
        content = {EVERY: content}
    if not isinstance(content, dict):
        expected = "a list of boxes, or lists of boxes by the names of pictures, is allowed"
        raise InputError(f"{str(path)!r} holds {shown(repr(content))}: {expected}")
    return {name: _boxes(rows, name, path) for name, rows in content.items()}


def boxes_of(boxes: Mapping[str, Sequence[Box]], picture: str | PurePath) -> Sequence[Box] | None:
    """Return the boxes of a picture, by its path, by its name without the folder, or those for every picture.

    Args:
        boxes: What `read_boxes` returned.
        picture: The path of the picture.

    Returns:
        The boxes, or None if there is nothing about this picture.
    """
    names = (str(picture), PurePath(picture).as_posix(), PurePath(picture).name, EVERY)
    return next((boxes[name] for name in names if name in boxes), None)


def fractions(
    boxes: Sequence[Sequence[float]] | NDArray[np.floating[Any]], width: int, height: int, source: str = ""
) -> NDArray[np.float64]:
    """Return boxes, in pixels or fractions, as fractions of a picture.

    Args:
        boxes: The boxes. Each is in pixels if one of its numbers is above 1.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        source: Where the boxes are from, for messages, such as the name of a file.

    Returns:
        Boxes from 0 to 1, float64 [P, 4].

    Raises:
        InputError: A box is none, or is not within the picture. The message names it.
    """
    if width < 1 or height < 1:
        raise InputError(f"picture of {width} x {height} pixels: at least 1 x 1 is allowed")
    rows = [_fraction(box, width, height, _name(i, source)) for i, box in enumerate(boxes)]
    return np.array(rows, np.float64).reshape(-1, 4)


def _fraction(box: Any, width: int, height: int, name: str) -> list[float]:
    numbers = _box(box, name)
    if max(numbers) <= 1:
        return list(numbers)
    x0, y0, x1, y1 = numbers
    if x1 > width or y1 > height:
        raise InputError(f"{name} is {list(numbers)} pixels, beyond the picture of {width} x {height}")
    return [x0 / width, y0 / height, x1 / width, y1 / height]


def _boxes(rows: Any, picture: str, path: Path) -> list[Box]:
    source = repr(str(path)) if picture == EVERY else f"{shown(repr(picture))} in {str(path)!r}"
    if not isinstance(rows, list):
        raise InputError(f"the boxes of {source} are {shown(repr(rows))}: a list of boxes is allowed")
    return [_box(row, _name(i, source)) for i, row in enumerate(rows)]


def _name(index: int, source: str) -> str:
    """Return how a message calls a box, which counts from 1."""
    return f"box {index + 1} of {source}" if source else f"box {index + 1}"


def _box(numbers: Any, name: str) -> Box:
    """Return four numbers as a box that is not empty and has no part above or left of the picture."""
    values = list(numbers) if isinstance(numbers, (list, tuple, np.ndarray)) else None
    if values is None or len(values) != 4 or not all(_finite(value) for value in values):
        raise InputError(f"{name} is {shown(repr(numbers))}: four finite numbers x0, y0, x1, y1 are allowed")
    x0, y0, x1, y1 = (float(value) for value in values)
    if x0 >= x1 or y0 >= y1:
        raise InputError(f"{name} is {[x0, y0, x1, y1]}, reversed or empty: x0 < x1 and y0 < y1 are expected")
    if x0 < 0 or y0 < 0:
        raise InputError(f"{name} is {[x0, y0, x1, y1]}, outside the picture: no number may be below 0")
    return x0, y0, x1, y1


def _finite(value: Any) -> bool:
    try:
        return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object)
    except OSError as e:
        raise InputError(f"boxes {str(path)!r} cannot be read: {e.strerror or e}") from e
    except RecursionError:
        raise InputError(f"boxes {str(path)!r} are not JSON: nested too deeply") from None
    except ValueError as e:  # not UTF-8 either
        raise InputError(f"boxes {str(path)!r} are not JSON: {e}") from e


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):  # Python would keep the last one only
        raise ValueError("a name is there twice")
    return content
