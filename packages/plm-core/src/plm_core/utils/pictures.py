"""What pictures of models have in common: small images are enlarged, and two pictures stand side by side."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MIN_SIDE = 224
"""The side in pixels to which the shorter side of a smaller image is enlarged, at least."""


def scale_of(height: int, width: int) -> int:
    """Return the whole factor by which an image is enlarged."""
    return math.ceil(MIN_SIDE / min(height, width))


def enlarged(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return pixels, uint8 [H, W, 3], as an image, with each pixel repeated if they are few."""
    scale = scale_of(*pixels.shape[:2])
    return Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1))


def beside(left: Image.Image, right: Image.Image, gap: int = 8) -> Image.Image:
    """Return two pictures of one height side by side on white, with a gap in pixels between them."""
    both = Image.new("RGB", (left.width + gap + right.width, left.height), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + gap, 0))
    return both
