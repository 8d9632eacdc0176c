"""Boxes of faces and of heads: the types that detectors return, and what is counted on boxes.

A box is (x0, y0, x1, y1) in pixels of the picture. Importing this imports no torch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plm_core.errors import InputError

Pixels = NDArray[np.uint8]
Boxes = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]


class Faces(NamedTuple):
    """The faces in a picture, with the best score first."""

    boxes: Boxes
    """float32 [P, 4], in pixels."""
    scores: Boxes
    """float32 [P]."""


class Heads(NamedTuple):
    """The heads in a picture, which are what Gaze-LLE takes."""

    boxes: Boxes
    """float32 [P, 4], in pixels."""
    scores: Boxes
    """float32 [P]."""


def rgb(picture: Any) -> Pixels:
    """Return a picture, uint8 [H, W, 3] or grey [H, W], as [H, W, 3].

    Raises:
        InputError: It is something else, or has no pixels.
    """
    shape, kind = getattr(picture, "shape", None), getattr(picture, "dtype", type(picture).__name__)
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim not in (2, 3):
        raise InputError(f"picture of shape {shape} and type {kind}: an array, uint8 [H, W, 3] or [H, W], is allowed")
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    if picture.shape[2] != 3 or not picture.size:
        raise InputError(f"picture of shape {shape}: pixels of one (without an axis) or three channels are allowed")
    return picture


def overlaps(first: Floats, second: Floats) -> NDArray[np.float64]:
    """Return the intersection over union of each box in ``first`` [P, 4] and each in ``second`` [Q, 4], [P, Q]."""
    a, b = first[:, None].astype(np.float64), second[None].astype(np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(min=0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def clipped(boxes: Floats, width: int, height: int) -> Boxes:
    """Return the part of each box that lies within a picture, float32 [P, 4]."""
    return boxes.clip(0, [width, height, width, height]).astype(np.float32)
