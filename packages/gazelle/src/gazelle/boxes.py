"""Head boxes: what is allowed, and the cells of a grid that they cover (arXiv 2412.09586, section 3).

A box is (x0, y0, x1, y1) in fractions of the width and height of the picture. None stands for a person without a box.

Shapes: B images, N people of an image at most, P people of all images, h x w the grid of patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plm_core import InputError

Box = Sequence[float] | None
NO_BOX = (0.0, 0.0, 0.0, 0.0)
"""A box that covers no cell."""


def head_maps(bboxes: Sequence[Box] | Tensor, grid: tuple[int, int], fill: bool = False) -> Tensor:
    """Mark the cells that the head of each person covers.

    A side is rounded to the nearest cell border, halves to the even one, as the original does. So a box of less than
    half a cell may cover none, and the person is then treated like one without a box. Sides below 0 count from the far
    end, as in a slice of Python. `check_box` refuses and clips such boxes.

    Args:
        bboxes: A box or None for each person, or a tensor of boxes [P, 4].
        grid: Height and width of the grid, in cells.
        fill: Whether a box that would cover no cell covers the one that its centre is in. People without a box, and
            boxes of a tensor without an area, cover none either way.

    Returns:
        uint8 [P, h, w]: 1 inside a head, 0 elsewhere.
    """
    boxes = bboxes if isinstance(bboxes, Tensor) else as_tensor(bboxes)
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    columns = _covered(boxes[:, 0], boxes[:, 2], grid[1], fill)
    rows = _covered(boxes[:, 1], boxes[:, 3], grid[0], fill)
    return (rows[:, :, None] & columns[:, None, :]).to(torch.uint8)


def _covered(start: Tensor, stop: Tensor, size: int, fill: bool) -> Tensor:
    """Return whether each cell of an axis lies in each interval, bool [P, size]."""
    first, end = ((side * size).round() for side in (start, stop))
    first, end = (torch.where(side < 0, side + size, side) for side in (first, end))
    cells = torch.arange(size, device=start.device)
    covered = (cells >= first[:, None]) & (cells < end[:, None])
    if fill:
        centre = ((start + stop) / 2 * size).floor().clamp(0, size - 1)
        alone = (first >= end) & (stop > start)
        covered |= alone[:, None] & (cells == centre[:, None])
    return covered


def as_tensor(bboxes: Sequence[Box]) -> Tensor:
    """Return boxes as float64 [P, 4], with a box that covers no cell for a person without one.

    Raises:
        InputError: A box has not four numbers.
    """
    rows = [NO_BOX if box is None else tuple(map(float, box)) for box in bboxes]
    for k, row in enumerate(rows):
        if len(row) != 4:  # the reshape would make one box of two halves
            raise InputError(f"bboxes[{k}] is {_shown(row)}; four numbers (x0, y0, x1, y1) or None are expected")
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


def people_of(bboxes: Sequence[Sequence[Box] | None], images: int) -> list[list[Box]]:
    """Return the checked boxes of each image.

    Args:
        bboxes: For each image a list of boxes, with None for a person without one. None for an image stands for one
            person without a box.
        images: Number of images.

    Raises:
        InputError: There are lists for another number of images, or a box is not one, see `check_box`.
    """
    if len(bboxes) != images:
        raise InputError(f"bboxes has {len(bboxes)} lists; one for each of the {images} images is expected")
    return [
        [None] if boxes is None else [check_box(box, f"bboxes[{i}][{k}]") for k, box in enumerate(boxes)]
        for i, boxes in enumerate(bboxes)
    ]


def check_box(box: Any, name: str) -> Box:
    """Return a box with its sides clipped to the picture.

    Args:
        box: A box, or None.
        name: What an error calls the box.

    Raises:
        InputError: The box has not four finite numbers, is reversed or empty, lies outside the picture, or is given in
            pixels.
    """
    if box is None:
        return None
    try:
        sides = [float(side) for side in box]
    except (TypeError, ValueError):
        sides = []
    if len(sides) != 4 or not all(map(math.isfinite, sides)):
        raise InputError(f"{name} is {_shown(box)}; four finite numbers (x0, y0, x1, y1) or None are expected")
    x0, y0, x1, y1 = sides
    if max(sides) > 2:
        raise InputError(
            f"{name} is {_shown(box)}, which looks like pixels; fractions of width and height are expected"
        )
    if x0 >= x1 or y0 >= y1:
        raise InputError(f"{name} is {_shown(box)}; x0 < x1 and y0 < y1 are expected")
    if x1 <= 0 or y1 <= 0 or x0 >= 1 or y0 >= 1:
        raise InputError(
            f"{name} is {_shown(box)}, which lies outside of the picture; fractions from 0 to 1 are expected"
        )
    return tuple(min(max(side, 0.0), 1.0) for side in sides)


def _shown(box: Any) -> str:
    sides = [float(side) if isinstance(side, int | float | Tensor) else side for side in box] if _is_list(box) else []
    words = [f"{side:g}" if isinstance(side, float) else repr(side) for side in sides]
    return f"({', '.join(words)})" if words else repr(box)


def _is_list(box: Any) -> bool:
    return isinstance(box, list | tuple) or (isinstance(box, Tensor) and box.ndim == 1)
