"""The renderer. It turns signed distances into pixels, and draws each sprite inside its own window of the canvas."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from plm_core.shapes.graph import Backdrop, Sprite

Floats = NDArray[np.float64]
Canvas = NDArray[np.float32]
Masks = NDArray[np.bool_]

# The normals of the five lines of a pentagram; each points at a tip, the first one up.
STAR = np.array([(math.sin(k * math.tau / 5), -math.cos(k * math.tau / 5)) for k in range(5)])


def paint_backdrop(backdrop: Backdrop, size: int) -> Canvas:
    """Paint a backdrop without its grain, as float32 levels [size, size, 3]."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    ramp = 0.5 + 0.7 * (axis * math.cos(backdrop.angle) + axis[:, None] * math.sin(backdrop.angle))
    start, end = (np.array(rgb, np.float32) for rgb in (backdrop.start, backdrop.end))
    canvas: Canvas = start + ramp[..., None] * (end - start)
    paint(canvas, backdrop.strokes)
    return canvas


def paint(canvas: Canvas, sprites: Sequence[Sprite]) -> Masks:
    """Draw the visible sprites on a canvas, in place and in order.

    Args:
        canvas: Levels, float32 [H, W, 3].
        sprites: The sprites to draw. Later sprites cover earlier ones.

    Returns:
        The visible mask of each sprite, bool [N, H, W]: the pixels that it covers at least by half, and that no later
        sprite does. No two masks share a pixel, and the mask of an invisible sprite is empty.
    """
    height, width, _ = canvas.shape
    owner = np.full((height, width), -1, np.int16)
    for index, sprite in enumerate(sprites):
        if sprite.visible:
            rows, columns, alpha = coverage(sprite, height, width)
            patch = canvas[rows, columns]
            patch += alpha[..., None] * (np.array(sprite.rgb, np.float32) - patch)
            owner[rows, columns][alpha >= 0.5] = index
    masks: Masks = owner == np.arange(len(sprites))[:, None, None]
    return masks


def coverage(sprite: Sprite, height: int, width: int) -> tuple[slice, slice, Canvas]:
    """Return the rows and columns of the window that a sprite touches, and the share of each pixel that it covers."""
    reach = sprite.radius + 1
    rows = slice(max(0, int(sprite.y - reach)), min(height, math.ceil(sprite.y + reach)))
    columns = slice(max(0, int(sprite.x - reach)), min(width, math.ceil(sprite.x + reach)))
    x = (np.arange(columns.start, columns.stop) + (0.5 - sprite.x)) / sprite.radius
    y = (np.arange(rows.start, rows.stop)[:, None] + (0.5 - sprite.y)) / sprite.radius
    cos, sin = math.cos(sprite.angle), math.sin(sprite.angle)
    distance = OUTLINES[sprite.shape](x * cos + y * sin, y * cos - x * sin) * sprite.radius
    alpha = np.minimum(np.maximum(0.5 - distance, 0), 1).astype(np.float32)
    return rows, columns, alpha


def expose(canvas: Canvas, grain: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Convert a canvas to uint8 levels of the same shape, with up to ``grain`` levels of noise on every pixel."""
    noise = (rng.random(canvas.shape[:-1], np.float32) * 2 - 1) * np.float32(grain)
    levels = np.minimum(np.maximum(canvas + noise[..., None], 0), 255)
    return (levels + 0.5).astype(np.uint8)


def boxes(masks: Masks) -> NDArray[np.float32]:
    """Return the tight boxes (x0, y0, x1, y1) of masks [..., H, W], float32 [..., 4]; zeros for an empty mask."""
    columns: Masks = np.logical_or.reduce(masks, -2)
    rows: Masks = np.logical_or.reduce(masks, -1)
    x1 = columns.shape[-1] - columns[..., ::-1].argmax(-1)
    y1 = rows.shape[-1] - rows[..., ::-1].argmax(-1)
    edges = np.stack([columns.argmax(-1), rows.argmax(-1), x1, y1], -1)
    return np.where(rows.any(-1, keepdims=True), edges, 0).astype(np.float32)


def _circle(x: Floats, y: Floats) -> Floats:
    return np.hypot(x, y) - 1


def _square(x: Floats, y: Floats) -> Floats:
    return np.maximum(np.abs(x), np.abs(y)) - math.sqrt(0.5)


def _triangle(x: Floats, y: Floats) -> Floats:
    return np.maximum(y, np.abs(x) * math.sqrt(0.75) - y / 2) - 0.5


def _star(x: Floats, y: Floats) -> Floats:
    """Use the second farthest of five lines: a point is in a pentagram if it is outside of at most one of them."""
    distances = x * STAR[:, :1, None] + y * STAR[:, 1:, None]
    second: Floats = np.partition(distances, 3, axis=0)[3]
    return second - math.cos(math.tau / 5)


def _cross(x: Floats, y: Floats) -> Floats:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 0.95, np.minimum(x, y) - 0.3)


def _ring(x: Floats, y: Floats) -> Floats:
    return np.abs(np.hypot(x, y) - 0.76) - 0.24


def _heart(x: Floats, y: Floats) -> Floats:
    """Join a square that stands on its corner with a disc on each of its two upper sides."""
    side, x, y = 0.56, np.abs(x), y - 0.2
    middle = side * math.sqrt(0.5)
    return np.minimum((x + np.abs(y)) * math.sqrt(0.5), np.hypot(x - middle, y + middle)) - side


def _crescent(x: Floats, y: Floats) -> Floats:
    disc, bite = np.hypot(x, y) - 1, np.hypot(x - 0.5, y) - 0.75
    return np.maximum(disc, np.negative(bite))


def _body(x: Floats, y: Floats) -> Floats:
    return np.maximum(np.hypot(x, y) - 1, y - 0.6)


def _hair(x: Floats, y: Floats) -> Floats:
    return np.maximum(np.hypot(x, y) - 1, x + 0.2)


def _nose(x: Floats, y: Floats) -> Floats:
    """Taper from the middle of the head to a tip on the disc, in the direction of the gaze."""
    return np.maximum(-x, np.abs(y) * 0.85 + (x - 1) * 0.5268)


def _stroke(x: Floats, y: Floats) -> Floats:
    return np.maximum(np.abs(x) - 0.95, np.abs(y) - 0.12)


# Signed distances to outlines that fit the unit disc. They are negative inside, and y points down. They are exact only
# near an edge, which is enough for anti-aliasing.
OUTLINES: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
    "crescent": _crescent,
    "stroke": _stroke,
    "body": _body,
    "hair": _hair,
    "nose": _nose,
}
