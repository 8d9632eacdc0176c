"""Regions of images and videos: boxes written into a text, and boxes drawn on frames.

    region_text("What is in <|bbox0|>?", [(10, 20, 30, 40)], width=100, height=200)    # What is in [100,100,400,300]?

Shapes: T frames, H, W pixels; pixels are RGB.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from plm_core.errors import InputError
from plm_core.utils.ranges import check_choice, real
from plm_core.video.clips import Frames, frames_tensor

RegionFormat = Literal["xyxy", "xywh"]
CoordinateFormat = Literal["000", "standard"]

MARKER = re.compile(r"<\|bbox(\d+)\|>")
LARGEST = 0.999
"""The largest coordinate that is written, as a share of the side: what three digits can tell."""
RED = (255, 0, 0)
LINE = 4
"""Width of the line of a drawn box, in pixels."""


class UnknownBox(InputError, IndexError):
    """A text names a box that is not there."""


def region_text(
    text: str,
    boxes: Sequence[Sequence[float]],
    width: float,
    height: float,
    region_format: RegionFormat = "xyxy",
    coordinate_format: CoordinateFormat = "000",
    region_type: str = "bbox",
) -> str:
    """Replace each marker ``<|bbox0|>``, ``<|bbox1|>``, ... by the coordinates of its box.

    Coordinates are shares of the image's sides, at least 0 and at most 0.999, cut off after three digits and not
    rounded.

    Args:
        text: The text with markers.
        boxes: Boxes as x, y, width and height in pixels.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        region_format: "xyxy" for left, top, right and bottom; "xywh" for left, top, width and height.
        coordinate_format: "000" for three digits, such as 062; "standard" for a fraction, such as 0.062.
        region_type: "bbox", which is the only one. The original declares masks, and never made them.

    Raises:
        UnknownBox: A marker names a box that is not there. It is an InputError and an IndexError.
        InputError: A box or an option has a value that is not allowed.
    """
    if region_type != "bbox":
        raise InputError(f"region_type {region_type!r} is not allowed: 'bbox' is; masks and polygons have no text")
    check_choice("region_format", region_format, get_args(RegionFormat))
    check_choice("coordinate_format", coordinate_format, get_args(CoordinateFormat))
    for name, value in (("width", width), ("height", height)):
        if not (real(value) and value > 0):
            raise InputError(f"{name} {value!r} is not allowed: a number of pixels above 0 is")

    def written(match: re.Match[str]) -> str:
        number = int(match[1])
        if number >= len(boxes):
            raise UnknownBox(f"{match[0]} names box {number}, but there are {len(boxes)} boxes, counted from 0")
        shares = _shares(boxes[number], number, width, height, region_format)
        return f"[{','.join(_digits(share, coordinate_format) for share in shares)}]"

    return MARKER.sub(written, text)


def _shares(
    box: Sequence[float], number: int, width: float, height: float, region_format: RegionFormat
) -> tuple[float, ...]:
    if len(box) != 4 or not all(map(real, box)) or min(box[2:]) < 0:
        raise InputError(f"box {number} is {list(box)}; x, y, width and height in pixels are expected")
    x, y, w, h = box
    ends = (x + w, y + h) if region_format == "xyxy" else (w, h)
    return x / width, y / height, ends[0] / width, ends[1] / height


def _digits(share: float, coordinate_format: CoordinateFormat) -> str:
    thousandths = math.floor(min(max(share, 0), LARGEST) * 1000)
    return f"{thousandths:03d}" if coordinate_format == "000" else f"0.{thousandths:03d}"


def draw_boxes(pixels: Frames, indices: Sequence[int], boxes: Mapping[str, Sequence[float] | None]) -> Tensor:
    """Draw one box, red and 4 pixels wide, on the frames that it is in.

    Frames are drawn on before they are resized, so that coordinates are pixels of the video.

    Args:
        pixels: Frames, uint8 [T, H, W, 3], which stay as they are.
        indices: The number of each frame in the video.
        boxes: The box by frame number, as left, top, right and bottom in pixels, or None where there is none: the
            ``bbox_map`` of a row, whose keys are strings. Frames that it does not name get no box.

    Returns:
        The frames with boxes, uint8 [T, H, W, 3].

    Raises:
        InputError: There are not as many numbers as frames, or a box is none; the message names the frame.
    """
    from torchvision.utils import draw_bounding_boxes

    frames = frames_tensor(pixels)
    if len(frames) != len(indices):
        raise InputError(f"indices has {len(indices)} numbers for {len(frames)} frames; one for each is expected")
    drawn = frames.clone()
    for position, index in enumerate(indices):
        box = boxes.get(str(index))
        if box is not None:
            corners = torch.tensor([_corners(box, index)])
            frame = draw_bounding_boxes(frames[position].permute(2, 0, 1), corners, colors=RED, width=LINE)
            drawn[position] = frame.permute(1, 2, 0)
    return drawn


def _corners(box: Any, index: int) -> list[float]:
    if not isinstance(box, Sequence) or len(box) != 4 or not all(map(real, box)):
        raise InputError(f"the box of frame {index} is {box!r}; left, top, right and bottom in pixels are expected")
    left, top, right, bottom = box
    if left > right or top > bottom:
        raise InputError(f"the box of frame {index} is {list(box)}; left <= right and top <= bottom are expected")
    return [float(value) for value in box]
