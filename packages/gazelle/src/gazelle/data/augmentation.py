"""The augmentation of the training (arXiv 2412.09586): a crop, a flip, and a head box that is not exact."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from gazelle.data.annotations import OUTSIDE, Box, Point
from plm_core import InputError

PROBABILITY = 0.5
"""How often each of the three is applied."""
JITTER = 0.2
"""The largest share of its width or height by which a side of the box moves."""


@dataclass(frozen=True)
class _View:
    """A picture, a head box [4] in pixels, and a gaze point [2] in pixels, None if it is outside."""

    image: Image.Image
    box: NDArray[np.float64]
    gaze: NDArray[np.float64] | None


def augment(image: Image.Image, box: Box, gaze: Point, inside: bool, rng: Generator) -> tuple[Image.Image, Box, Point]:
    """Augment a picture with one person: crop, then flip, then jitter of the box, each with probability 0.5.

    The crop is any that keeps the head box and a gaze point that is inside, to a pixel. Box and point are clipped to
    the picture before and after it.

    Args:
        image: The picture.
        box: The head box (x0, y0, x1, y1) in fractions of the picture.
        gaze: The gaze point in fractions.
        inside: Whether the target is inside the picture. If not, the gaze point plays no part.
        rng: The source of randomness.

    Returns:
        The new picture, and the box and the gaze point in fractions of it. A target outside has the point (-1, -1).

    Raises:
        InputError: The box or the point is not finite, or the ends of the box are reversed.
    """
    corners, point = np.array(box, np.float64), np.array(gaze, np.float64)
    if corners.shape != (4,) or not np.isfinite(corners).all() or (corners[:2] > corners[2:]).any():
        raise InputError(f"box is {tuple(box)}; (x0, y0, x1, y1) in fractions, x0 <= x1 and y0 <= y1, is expected")
    if inside and (point.shape != (2,) or not np.isfinite(point).all()):
        raise InputError(f"gaze is {tuple(gaze)}; (x, y) in fractions is expected")
    size = np.array(image.size, np.float64)
    view = _clipped(_View(image, corners * np.tile(size, 2), point * size if inside else None))
    if rng.random() < PROBABILITY:
        view = _clipped(_crop(view, rng))
    if rng.random() < PROBABILITY:
        view = _flip(view)
    if rng.random() < PROBABILITY:
        view = _clipped(_jitter(view, rng))
    size = np.array(view.image.size, np.float64)
    x0, y0, x1, y1 = (view.box / np.tile(size, 2)).tolist()
    x, y = OUTSIDE if view.gaze is None else (view.gaze / size).tolist()
    return view.image, (x0, y0, x1, y1), (x, y)


def _crop(view: _View, rng: Generator) -> _View:
    """Cut the picture at whole pixels: before the box and the point, and behind them."""
    points = view.box.reshape(2, 2) if view.gaze is None else np.stack([*view.box.reshape(2, 2), view.gaze])
    size = np.array(view.image.size)
    start = rng.integers(0, np.minimum(points.min(0).astype(int), size - 1), endpoint=True)
    # a box that is narrower than a pixel still needs one
    end = rng.integers(np.maximum(points.max(0).astype(int), start + 1), size, endpoint=True)
    return _View(
        view.image.crop((*start.tolist(), *end.tolist())),
        view.box - np.tile(start, 2),
        None if view.gaze is None else view.gaze - start,
    )


def _flip(view: _View) -> _View:
    width = view.image.width
    x0, y0, x1, y1 = view.box
    gaze = None if view.gaze is None else np.array([width - view.gaze[0], view.gaze[1]])
    flipped = view.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _View(flipped, np.array([width - x1, y0, width - x0, y1]), gaze)


def _jitter(view: _View, rng: Generator) -> _View:
    sides = np.tile(view.box[2:] - view.box[:2], 2)
    return replace(view, box=view.box + rng.uniform(-JITTER, JITTER, 4) * sides)


def _clipped(view: _View) -> _View:
    size = np.array(view.image.size, np.float64)
    gaze = None if view.gaze is None else view.gaze.clip(0, size)
    return replace(view, box=view.box.clip(0, np.tile(size, 2)), gaze=gaze)
