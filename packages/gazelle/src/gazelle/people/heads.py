"""Head boxes from face boxes. Gaze-LLE was trained on heads, as GazeFollow has them, and detectors find faces.

A face box of MTCNN reaches from the hairline to the chin and is about as wide as the face. How much larger a head is
was read off two photos by eye, under a grid of 10 pixels: from the top of the hair or cap to the chin, and from ear to
ear or over the hair, as (x0, y0, x1, y1).

photo          face (MTCNN)           head                   width  height  above the face  below it
astronaut      177, 60, 269, 174      153, 16, 302, 178      1.63   1.41    0.38             0.03
grace_hopper   176, 111, 354, 340     152, 23, 377, 331      1.26   1.35    0.39            -0.04

Widths and heights are in those of the face, and the last two columns in heights of the face. So a head is 1.4 times a
face, both ways, and its middle is 0.2 of the face's height further up: it ends where the face does, at the chin. Such
boxes have an IoU of 0.83 and 0.87 with the heads above; the face boxes have 0.43 and 0.55. A head from the side needs
more, since no face detector sees its back: in a third photo, a profile (scikit-image's camera), the IoU is 0.63.

A person who is seen from behind has no face to begin with, and is not found. Gaze-LLE can handle such heads, so give it
boxes from elsewhere (see `gazelle.people.reading`, or a detector of heads).
"""

from __future__ import annotations

import math

import numpy as np

from gazelle.people.boxes import Boxes, Floats, clipped
from plm_core.errors import InputError

FACTOR = 1.4
"""The width and height of a head in those of a face."""
SHIFT = 0.2
"""The way up from the middle of a face to the middle of its head, in heights of the face."""


def head_boxes(faces: Floats, width: int, height: int, factor: float = FACTOR, shift: float = SHIFT) -> Boxes:
    """Grow face boxes to head boxes.

    Args:
        faces: Boxes of faces, [P, 4], in pixels.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        factor: Width and height of a head in those of the face, above 0.
        shift: Way up to the middle of the head, in heights of the face.

    Returns:
        Boxes of heads, float32 [P, 4], in pixels, the parts that are in the picture.

    Raises:
        InputError: An argument is out of its range.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise InputError(f"factor {factor!r} is not allowed: a number above 0 is")
    if not math.isfinite(shift):
        raise InputError(f"shift {shift!r} is not allowed: a finite number is")
    faces = np.asarray(faces, np.float64).reshape(-1, 4)
    sides = faces[:, 2:] - faces[:, :2]
    middle = (faces[:, :2] + faces[:, 2:]) / 2 - sides * [0, shift]
    grown = np.concatenate([middle - sides * factor / 2, middle + sides * factor / 2], 1)
    return clipped(grown, width, height)
