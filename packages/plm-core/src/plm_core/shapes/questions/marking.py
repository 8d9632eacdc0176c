"""Thin red boxes that point at an object of a clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plm_core.shapes.questions.asking import Box

RED = (255, 0, 0)


def line_width(size: int) -> int:
    """Return the width of a drawn line, which is one pixel for frames of 48."""
    return max(1, round(size / 48))


def mark_track(boxes: NDArray[np.float32], size: int) -> tuple[Box | None, ...]:
    """Return the boxes that point at an object, so much larger than its own that their lines do not cover it.

    Args:
        boxes: The tight boxes of a `Track`, [T, 4], with zeros while the object is hidden.
        size: Height and width of the frames in pixels.

    Returns:
        The box (x0, y0, x1, y1) in each frame, within the frame, or None while the object is hidden.
    """
    margin = line_width(size) + 1
    grown = np.clip(boxes + np.array([-margin, -margin, margin, margin]), 0, size)
    return tuple(
        (x0, y0, x1, y1) if any(box) else None
        for box, (x0, y0, x1, y1) in zip(boxes.tolist(), grown.tolist(), strict=True)
    )


def draw_boxes(frames: NDArray[np.uint8], track: Sequence[Box | None]) -> NDArray[np.uint8]:
    """Return frames, uint8 [T, H, W, 3], with a red outline just inside the box of each, where there is one."""
    drawn = frames.copy()
    width = line_width(frames.shape[1])
    for frame, box in zip(drawn, track, strict=True):
        if box is not None:
            x0, y0, x1, y1 = map(int, box)
            inside = np.s_[y0 + width : y1 - width, x0 + width : x1 - width]
            kept = frame[inside].copy()
            frame[y0:y1, x0:x1] = RED
            frame[inside] = kept
    return drawn
