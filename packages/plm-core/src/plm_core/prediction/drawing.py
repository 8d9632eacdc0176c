"""Pictures with what a model found in an image: objects with masks, boxes and tags, or regions with a legend."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from plm_core.errors import InputError
from plm_core.prediction.results import Detection
from plm_core.utils.images import Channels

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

LONGEST = 720
"""Length in pixels to which about the longer side of a small picture is enlarged, so that its tags can be read."""
OPACITY = 0.4
"""Opacity of a mask."""


def draw(image: Image.Image, detections: Sequence[Detection]) -> Image.Image:
    """Draw objects into a picture.

    Lines and letters grow with the picture. A small picture is enlarged by a whole factor first. Each class has a
    colour of its own, which depends on its number only.

    Args:
        image: The picture, in any mode.
        detections: The objects, best first, with boxes in pixels of ``image``.

    Returns:
        The picture, RGB.
    """
    picture, factor, scale, line = canvas(image)
    for detection in reversed(detections):  # the best ones are on top
        if detection.mask is not None:
            mask = Image.fromarray(detection.mask.decode()).convert("L")
            _paint_mask(picture, mask, factor, colour_of(detection.number), line)
    pen = ImageDraw.Draw(picture)
    boxes = {i: _scaled(detection.box, factor) for i, detection in enumerate(detections)}
    for i, detection in reversed(list(enumerate(detections))):
        pen.rectangle(_ordered(boxes[i]), outline=colour_of(detection.number), width=line)
    _draw_tags(pen, picture.size, [(d, boxes[i]) for i, d in enumerate(detections)], round(15 * scale), line)
    return picture


def draw_regions(
    image: Image.Image, regions: NDArray[np.integer[Any]], labels: Sequence[str], *, absent: bool = True
) -> Image.Image:
    """Draw the regions of a segmentation over a picture, with a legend in its lower left corner.

    Args:
        image: The picture, in any mode.
        regions: The number of the region of each pixel, integers [H, W] of the size of the picture, from 0. Pixels of
            another number, such as -1, have no region.
        labels: The label of each region. It has the colour of this number.
        absent: Whether the legend also has the labels of regions without a pixel.

    Returns:
        The picture, RGB. A small picture is enlarged by a whole factor.

    Raises:
        InputError: The regions do not have the size of the picture.
    """
    if regions.shape != (image.height, image.width):
        raise InputError(f"regions has shape {list(regions.shape)}; [{image.height}, {image.width}] is expected")
    picture, factor, scale, line = canvas(image)
    for number in range(len(labels)):
        _paint_mask(picture, Image.fromarray(regions == number).convert("L"), factor, colour_of(number), line)
    present = set(np.unique(regions).tolist())
    legend = {number: label for number, label in enumerate(labels) if absent or number in present}
    _draw_legend(ImageDraw.Draw(picture), picture.size, legend, round(15 * scale))
    return picture


def canvas(image: Image.Image) -> tuple[Image.Image, int, float, int]:
    """Return a picture to draw on, the factor by which it is enlarged, the scale of letters and the width of lines."""
    factor = max(1, round(LONGEST / max(image.size)))
    picture: Image.Image = Channels(3)(image)
    picture = picture.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    scale = max(1.0, sqrt(picture.width * picture.height) / LONGEST)
    return picture, factor, scale, max(2, round(2.5 * scale))


def colour_of(number: int) -> Colour:
    """Return the colour of a class. Turning the hue by the golden ratio keeps neighbouring numbers far apart."""
    red, green, blue = colorsys.hsv_to_rgb((0.35 + number * 0.618034) % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _paint_mask(picture: Image.Image, mask: Image.Image, factor: int, colour: Colour, line: int) -> None:
    """Lay a colour over the pixels of a mask, and a line of the same colour along its edge."""
    extent = mask.getbbox()
    if extent is None:
        return
    margin = line  # pixels of the mask; the line and the soft edge of an enlarged mask reach out of it
    left, top, right, bottom = extent
    left, top, right, bottom = left - margin, top - margin, right + margin, bottom + margin
    part = mask.crop((left, top, right, bottom))
    part = part.resize((part.width * factor, part.height * factor), Image.Resampling.BICUBIC)
    # rounding off the steps of the pixels, and then making the edge sharp again
    part = part.filter(ImageFilter.GaussianBlur(0.6 * factor)).point(lambda value: 4 * value - 384)
    # a blurred mask is neither empty nor full along its edge; a rank filter would take seconds for a large picture
    edge = part.filter(ImageFilter.BoxBlur(line / 2)).point(lambda value: 6 * min(value, 255 - value))
    where = (left * factor, top * factor)
    picture.paste(colour, where, part.point(lambda value: value * OPACITY))
    picture.paste(colour, where, edge)


def _scaled(box: Box, factor: int) -> Box:
    x0, y0, x1, y1 = box
    return x0 * factor, y0 * factor, x1 * factor, y1 * factor


def _ordered(box: Box) -> Box:
    x0, y0, x1, y1 = box
    return x0, y0, max(x0, x1), max(y0, y1)  # PIL refuses a box that is inside out


def _draw_tags(
    pen: ImageDraw.ImageDraw, size: tuple[int, int], objects: Sequence[tuple[Detection, Box]], height: int, line: int
) -> None:
    """Draw a tag at each box, where it covers the least of the tags before it."""
    font = ImageFont.load_default(size=height)
    pad = max(2, height // 4)
    ascent, descent = font.getmetrics()  # type: ignore[union-attr]
    taken: list[Box] = []
    for detection, box in objects:
        text = f"{detection.label} {detection.score:.2f}"
        width, tall = pen.textlength(text, font) + 2 * pad, ascent + descent + pad
        x, y = place(width, tall, box, size, taken)
        colour = colour_of(detection.number)
        taken.append((x, y, x + width, y + tall))
        pen.rectangle(taken[-1], fill=colour)
        pen.text((x + pad, y + pad / 2), text, fill=readable_on(colour), font=font)


def _draw_legend(pen: ImageDraw.ImageDraw, size: tuple[int, int], labels: Mapping[int, str], height: int) -> None:
    """Draw a tag for each label, by its number, one above the other. They shrink if they would not fit otherwise."""
    lines = max(len(labels), 1)
    height = max(6, min(height, round(0.5 * size[1] / lines)))
    font = ImageFont.load_default(size=height)
    pad = max(2, height // 4)
    ascent, descent = font.getmetrics()  # type: ignore[union-attr]
    tall = ascent + descent + pad
    for line, (number, label) in enumerate(labels.items()):
        colour, top = colour_of(number), size[1] - (lines - line) * tall
        pen.rectangle((0, top, pen.textlength(label, font) + 2 * pad, top + tall - 1), fill=colour)
        pen.text((pad, top + pad / 2), label, fill=readable_on(colour), font=font)


def place(width: float, height: float, box: Box, size: tuple[int, int], taken: Sequence[Box]) -> tuple[float, float]:
    """Return the top left corner of a tag: above its box, else inside, else below, and always inside the picture."""
    x0, y0, x1, y1 = box
    corners = [(x, y) for y in (y0 - height, y0, y1, y1 - height) for x in (x0, x1 - width)]
    inside = [
        (min(max(x, 0.0), max(size[0] - width, 0.0)), min(max(y, 0.0), max(size[1] - height, 0.0))) for x, y in corners
    ]
    return min(
        inside, key=lambda corner: sum(_overlap((*corner, corner[0] + width, corner[1] + height), t) for t in taken)
    )


def _overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def readable_on(colour: Colour) -> Colour:
    """Return black or white, whichever stands out more."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)
