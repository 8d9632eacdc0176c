"""The frames of a video that a model sees, with a box around the subject of a question.

Shapes: T frames, H, W pixels; pixels are RGB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from plm_core.errors import InputError
from plm_core.video import Video

Box = Sequence[float]
"""The edges of a box in pixels, (x1, y1, x2, y2)."""
RED = (255, 0, 0)
WIDTH = 4
"""Pixels of a box's outline, at the size of the original frame."""


def uniform(total: int, count: int) -> list[int]:
    """Return the numbers of ``count`` frames that are spread evenly over a video, from its first frame to its last.

    Args:
        total: Number of frames in the video.
        count: Number of frames to take. Of a video that has no more than these, all frames are taken.
    """
    if total <= count:
        return list(range(total))
    return [round(number * (total - 1) / (count - 1)) if count > 1 else 0 for number in range(count)]


def read_frames(
    path: Path, count: int, boxes: Mapping[int, Box] | None = None, whole: bool = False
) -> tuple[Tensor, list[int]]:
    """Read the frames of a video that a model sees.

    Args:
        path: The file.
        count: Number of frames; see `uniform`.
        boxes: The boxes to draw, by the number of the frame in the video.
        whole: Whether a video with fewer frames is an error.

    Returns:
        The frames, uint8 [T, H, W, 3], and their numbers in the video.

    Raises:
        MissingDependency: PyAV is not installed.
        InputError: The file is not a video, is damaged, or is too short.
    """
    video = Video(path)
    if whole and len(video) < count:
        raise InputError(f"{video.name} has {len(video)} frames; this task needs {count} or more")
    numbers = uniform(len(video), count)
    frames = video.read(numbers)
    return (draw_boxes(frames, numbers, boxes) if boxes else frames), numbers


def draw_boxes(frames: Tensor, numbers: Sequence[int], boxes: Mapping[int, Box]) -> Tensor:
    """Return frames with the outline of a red box on each that has one.

    Args:
        frames: The frames, uint8 [T, H, W, 3].
        numbers: Their numbers in the video.
        boxes: The boxes by these numbers.

    Raises:
        InputError: A box ends before it begins.
    """
    marked = frames.clone()
    for place, number in enumerate(numbers):
        if number in boxes:
            marked[place] = _outlined(frames[place], number, boxes[number])
    return marked


def _outlined(frame: Tensor, number: int, box: Box) -> Tensor:
    picture = Image.fromarray(frame.numpy())
    try:
        ImageDraw.Draw(picture).rectangle(list(box), outline=RED, width=WIDTH)
    except ValueError as e:
        raise InputError(f"box {list(box)} of frame {number} is not [x1, y1, x2, y2] with x1 <= x2, y1 <= y2") from e
    return torch.from_numpy(np.array(picture))
