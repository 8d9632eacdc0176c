"""Target maps for training, a bump of height 1 around the gaze point (arXiv 2412.09586, training details)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from plm_core import InputError
from plm_core.utils.ranges import check_choice, real, whole

KINDS = ("Gaussian", "Cauchy")


def heatmap(gazex: float, gazey: float, height: int, width: int, sigma: int = 3, htype: str = "Gaussian") -> Tensor:
    """Return the target map of one gaze point, float32 [height, width] with values from 0 to 1.

    The bump is centred on the cell that the point lies in and reaches 3 sigma in each direction. It is cut off at the
    border and divided by its largest value, so that a point just beyond the right or lower border has a map whose
    largest value is 1, too. The map is zero if the point is farther away, or if one of its coordinates is negative,
    which is how datasets mark a target outside of the picture.

    Args:
        gazex: Horizontal position as a fraction of the width.
        gazey: Vertical position as a fraction of the height.
        height: Rows of the map.
        width: Columns of the map.
        sigma: Width of the bump in cells.
        htype: ``Gaussian``, or ``Cauchy`` for heavier tails.

    Raises:
        InputError: An argument is not allowed.
    """
    _check(gazex, gazey, {"height": height, "width": width, "sigma": sigma})
    check_choice("htype", htype, KINDS)
    target = np.zeros((height, width), np.float32)
    if gazex < 0 or gazey < 0:
        return torch.from_numpy(target)
    x, y = int(gazex * width), int(gazey * height)
    rows = np.arange(max(y - 3 * sigma, 0), min(y + 3 * sigma + 1, height))
    columns = np.arange(max(x - 3 * sigma, 0), min(x + 3 * sigma + 1, width))
    if rows.size and columns.size:
        bump = _bump((rows[:, None] - y) ** 2 + (columns - x) ** 2, sigma, htype)
        target[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = bump / bump.max()
    return torch.from_numpy(target)


def _bump(squared: np.ndarray, sigma: int, htype: str) -> np.ndarray:
    """Return the height of the bump by the squared distance from its centre, in float64."""
    if htype == "Gaussian":
        return np.exp(-squared / (2 * sigma**2))
    return sigma / (squared + sigma**2) ** 1.5


def _check(gazex: float, gazey: float, counts: dict[str, int]) -> None:
    for name, value in {"gazex": gazex, "gazey": gazey}.items():
        if not real(value):
            raise InputError(f"{name} is {value!r}; a finite number, a fraction of the picture, is expected")
    for name, count in counts.items():
        if not whole(count):
            raise InputError(f"{name} is {count!r}; a whole number of cells, 1 or more, is expected")
