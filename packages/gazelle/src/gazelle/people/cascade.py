"""Faces by the cascade of local binary patterns that scikit-image has, a fallback that needs no torch.

It finds upright faces from the front, and is less certain than MTCNN: by itself it takes parts of helmets and gravel
for faces. So a face must have at least a tenth of the picture's shorter side, and be hit in 12 neighbouring windows.
The numbers are from the two sample photos and from five pictures of scikit-image without a face from the front, each
at half, full and one and a half size: faces had 16 hits or more, and false boxes of that size 11 or less.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from gazelle.people.boxes import Faces, Pixels, clipped, overlaps, rgb
from plm_core.errors import InputError, MissingDependency

SHARE = 0.1
"""The smallest face, as a share of the picture's shorter side."""
SMALLEST = 24
"""The window of the cascade in pixels."""
HITS = 12
"""The number of neighbouring windows that must show a face."""
OVERLAP = 0.3
"""The overlap at which the smaller one of two faces is dropped."""


class Cascade:
    """A detector of faces. All its scores are 1, since a cascade gives no probability.

    Args:
        min_size: Side of the smallest face in pixels, at least 24. By default a tenth of the picture's shorter side.
        hits: Number of neighbouring windows that must show a face.

    Raises:
        InputError: An argument is out of its range.
        MissingDependency: scikit-image is not installed.
    """

    def __init__(self, min_size: int | None = None, hits: int = HITS) -> None:
        if min_size is not None and min_size < SMALLEST:
            raise InputError(f"min_size {min_size!r} is not allowed: a number of pixels from {SMALLEST} is")
        if hits < 1:
            raise InputError(f"hits {hits!r} is not allowed: a whole number from 1 is")
        self.min_size = min_size
        self.hits = hits
        self._cascade = _load()

    def __call__(self, picture: Pixels) -> Faces:
        """Find the faces in a picture, uint8 RGB [H, W, 3] or grey [H, W], the largest first.

        Raises:
            InputError: The picture is something else.
        """
        picture = rgb(picture)
        height, width = picture.shape[:2]
        side = min(height, width)
        least = self.min_size or max(SMALLEST, round(SHARE * side))
        found = []
        if least <= side:
            found = self._cascade.detect_multi_scale(
                img=picture,
                scale_factor=1.1,
                step_ratio=1,
                min_size=(least, least),
                max_size=(side, side),
                min_neighbor_number=self.hits,
            )
        corners = [(f["c"], f["r"], f["c"] + f["width"], f["r"] + f["height"]) for f in found]
        boxes = _largest(clipped(np.array(corners, np.float32).reshape(-1, 4), width, height))
        return Faces(boxes, np.ones(len(boxes), np.float32))


@lru_cache(maxsize=1)
def cascade() -> Cascade:
    """Return the detector with its default options. It is loaded once.

    Raises:
        MissingDependency: scikit-image is not installed.
    """
    return Cascade()


def _load() -> Any:
    try:
        from skimage import data, feature
    except ModuleNotFoundError as e:
        raise MissingDependency("the detector 'cascade' needs scikit-image: install gazelle[cascade]") from e
    return feature.Cascade(data.lbp_frontal_face_cascade_filename())


def _largest(boxes: Any) -> Any:
    """Return the boxes that no larger one overlaps, the largest first."""
    order = np.argsort(-(boxes[:, 2] - boxes[:, 0]), kind="stable")
    over = overlaps(boxes, boxes) > OVERLAP
    kept: list[int] = []
    for row in order:
        if not over[row, kept].any():
            kept.append(row)
    return boxes[kept]
