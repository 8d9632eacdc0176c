"""Detectors of people by their names, and the heads that any of them finds.

A detector is a callable from a picture, uint8 RGB [H, W, 3], to `Faces` or `Heads`: boxes float32 [P, 4] in pixels (x0,
y0, x1, y1) and scores float32 [P]. Faces are grown to heads. A plain pair of boxes and scores counts as heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from gazelle.people.boxes import Boxes, Faces, Heads, Pixels, clipped, rgb
from gazelle.people.heads import head_boxes
from plm_core.errors import InputError, PluginError
from plm_core.utils.references import resolve

Detector: TypeAlias = Callable[[Pixels], Faces | Heads | tuple[Boxes, Boxes]]

NAMED = {"mtcnn": "gazelle.people.mtcnn:mtcnn", "cascade": "gazelle.people.cascade:cascade"}
"""What returns each detector that has a name."""


def detector(which: str | Detector = "mtcnn") -> Detector:
    """Return a detector.

    Args:
        which: ``mtcnn`` (the default, see `gazelle.people.mtcnn`), ``cascade`` (scikit-image's, which needs the
            extra ``gazelle[cascade]``), ``"module:function"`` for a detector from elsewhere, or a callable.

    Raises:
        InputError: There is no such detector.
        MissingDependency: What it needs is not installed.
    """
    if not isinstance(which, str):
        if not callable(which):
            raise InputError(f"detector {which!r} cannot be called; a name, 'module:function' or a callable is allowed")
        return which
    if which in NAMED:
        return resolve(NAMED[which])()
    if ":" not in which:
        raise InputError(f"detector {which!r} is not known; 'mtcnn', 'cascade' and 'module:function' are allowed")
    try:
        found = resolve(which)
    except PluginError as e:
        raise InputError(f"detector {which!r} cannot be used: {e}") from e
    if not callable(found):
        raise InputError(f"detector {which!r} is of type {type(found).__name__}; a callable is expected")
    return found


def find_heads(picture: Pixels, which: str | Detector = "mtcnn") -> Heads:
    """Find the heads in a picture, in the order in which the detector gives them.

    Args:
        picture: uint8 RGB [H, W, 3], or grey [H, W].
        which: The detector, see `detector`.

    Returns:
        Heads within the picture. A box without a part in it is left out.

    Raises:
        InputError: The picture or the detector is something else, or the detector returned something else.
        MissingDependency: What the detector needs is not installed.
    """
    picture = rgb(picture)
    height, width = picture.shape[:2]
    found = detector(which)(picture)
    boxes, scores = _checked(found, which)
    boxes = head_boxes(boxes, width, height) if isinstance(found, Faces) else clipped(boxes, width, height)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return Heads(boxes[inside], scores[inside])


def _checked(found: Any, which: str | Detector) -> tuple[Boxes, Boxes]:
    """Return boxes and scores as arrays, if they are any."""
    try:
        boxes, scores = (np.asarray(part, np.float32) for part in found)
    except (TypeError, ValueError):
        raise InputError(f"detector {which!r} returned {type(found).__name__}; boxes and scores are expected") from None
    boxes = boxes.reshape(0, 4) if not boxes.size else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise InputError(
            f"detector {which!r} returned boxes {list(boxes.shape)} and scores {list(scores.shape)}; [P, 4] and [P] "
            "are expected"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise InputError(f"detector {which!r} returned numbers that are not finite")
    return boxes, scores
