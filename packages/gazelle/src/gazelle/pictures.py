"""Pictures of gaze: a heatmap laid over the image it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from plm_core import InputError
from plm_core.utils.images import Channels, decode_image

ALPHA = 128
"""The opacity of the heatmap, of 255."""
_RED = ((0, 0), (0.35, 0), (0.66, 1), (0.89, 1), (1, 0.5))
_GREEN = ((0, 0), (0.125, 0), (0.375, 1), (0.64, 1), (0.91, 0), (1, 0))
_BLUE = ((0, 0.5), (0.11, 1), (0.34, 1), (0.65, 0), (1, 0))


def overlay(image: Any, heatmap: Any, bbox: Sequence[float] | None = None) -> Image.Image:
    """Lay a heatmap over an image, in the colours of "jet" from blue to red, half transparent.

    Args:
        image: A PIL image, or pixels uint8 [H, W] or [H, W, 1, 3 or 4]. Transparent pixels are laid over white first.
        heatmap: Values from 0 to 1, [rows, columns] of any size; others are clipped.
        bbox: The head box (x0, y0, x1, y1) in fractions of the image, drawn in green; None for no box.

    Returns:
        The picture, RGBA, of the size of the image.

    Raises:
        InputError: The heatmap is not two-dimensional or not finite, or the box is not four finite numbers in order.
    """
    picture = Channels(3)(image if isinstance(image, Image.Image) else decode_image(np.asarray(image)))
    levels = Image.fromarray(_levels(heatmap)).resize(picture.size, Image.Resampling.BILINEAR)
    colours = jet()[np.asarray(levels)]
    layer = np.dstack([colours, np.full(colours.shape[:2], ALPHA, np.uint8)])
    painted = Image.alpha_composite(picture.convert("RGBA"), Image.fromarray(layer))
    if bbox is not None:
        x0, y0, x1, y1 = _corners(bbox)
        corners = (x0 * picture.width, y0 * picture.height, x1 * picture.width, y1 * picture.height)
        ImageDraw.Draw(painted).rectangle(corners, outline="green", width=3)
    return painted


def jet() -> NDArray[np.uint8]:
    """Return the colour map "jet", uint8 [256, 3]. It is piecewise linear, so matplotlib is not needed for it."""
    places = np.linspace(0, 1, 256)
    channels = [np.array(channel).T for channel in (_RED, _GREEN, _BLUE)]
    return (255 * np.stack([np.interp(places, x, y) for x, y in channels], 1)).astype(np.uint8)


def _levels(heatmap: Any) -> NDArray[np.uint8]:
    """Return a heatmap as levels from 0 to 255, rounded down."""
    tensor = heatmap.detach().float().cpu() if hasattr(heatmap, "detach") else heatmap
    values = np.asarray(tensor, dtype=np.float32)
    if values.ndim != 2 or 0 in values.shape:
        raise InputError(f"heatmap has shape {list(values.shape)}; [rows, columns] is expected")
    if not np.isfinite(values).all():
        raise InputError("heatmap has values that are not finite")
    return (values.clip(0, 1) * 255).astype(np.uint8)


def _corners(bbox: Sequence[float]) -> Sequence[float]:
    box = np.asarray(bbox, dtype=np.float64)
    if box.shape != (4,) or not np.isfinite(box).all() or (box[:2] > box[2:]).any():
        raise InputError(f"bbox is {list(bbox)}; (x0, y0, x1, y1) in fractions, x0 <= x1 and y0 <= y1, is expected")
    corners: list[float] = box.tolist()
    return corners
