"""The source and target tasks of the mini-benchmark: digits and shapes as 12x12 RGB images, all of them deterministic.

No image of a target is in a source. Digits with even numbers are for the sources and those with odd numbers for the
targets (the same people wrote both). Scenes of `plm_core.shapes` come from its two splits. All targets of digits are
views of the same digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from plm_core import samples, shapes
from plm_core.shapes import COLOURS, SHAPES, SIZES

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Side = Literal["source", "target"]

SIZE = 12
SCENES = {"source": 1200, "target": 1200}
SPLIT: dict[Side, str] = {"source": "train", "target": "heldout"}


@dataclass(frozen=True)
class Task:
    """A task: images in [0, 1], float32 [N, 3, 12, 12], and labels int64 [N] of ``classes`` classes."""

    x: Floats
    y: Labels
    classes: int


@cache
def digits(side: Side) -> tuple[Floats, Labels]:
    """Return digits in the middle of a black square, float32 [N, 12, 12], and their labels."""
    parts = [samples.digits("train"), samples.digits("heldout")]
    pixels = np.stack([np.asarray(image, np.float32) / 255 for images, _ in parts for image in images])
    labels = np.concatenate([labels for _, labels in parts])
    own = np.arange(len(labels)) % 2 == (side == "target")
    return np.pad(pixels[own], ((0, 0), (2, 2), (2, 2))), labels[own]


def _rgb(grey: Floats) -> Floats:
    return np.repeat(grey[:, None], 3, axis=1)


def _noisy(x: Floats, sd: float, seed: int) -> Floats:
    noise = np.random.default_rng(seed).standard_normal(x.shape)
    return np.clip(x + sd * noise, 0, 1).astype(np.float32)


def _shifted(x: Floats, most: int, seed: int) -> Floats:
    """Shift each image [H, W] by up to ``most`` pixels in both directions."""
    moves = np.random.default_rng(seed).integers(-most, most + 1, (len(x), 2))
    return np.stack([np.roll(image, tuple(move), (0, 1)) for image, move in zip(x, moves, strict=True)])


def _textured(grey: Floats, seed: int) -> Floats:
    """Draw digits in one colour on blotches of other colours, float32 [N, 3, 12, 12]."""
    rng = np.random.default_rng(seed)
    blotches = rng.random((len(grey), 3, 4, 4)).repeat(3, axis=2).repeat(3, axis=3)
    ink = 0.7 + 0.3 * rng.random((len(grey), 3, 1, 1))
    alpha = grey[:, None]
    return (alpha * ink + (1 - alpha) * 0.4 * blotches).astype(np.float32)


@cache
def objects(side: Side, background: str, seed: int) -> tuple[Floats, Labels, Labels, Labels]:
    """Return close-ups of single objects, float32 [N, 3, 12, 12], and their kinds, colours and sizes."""
    count, rng = SCENES[side], np.random.default_rng(seed)
    world = shapes.Images(SPLIT[side], size=48, count=count, seed=seed, objects=(1, 1), background=background)
    x, labels = np.empty((count, 3, SIZE, SIZE), np.float32), np.empty((3, count), np.int64)
    for i, scene in enumerate(world):
        obj = scene.objects[0]
        x0, y0, x1, y1 = obj.box
        jitter = rng.integers(-3, 4, 2)
        left, top = (
            int(np.clip((a + b) / 2 - 12 + j, 0, 24)) for a, b, j in ((x0, x1, jitter[0]), (y0, y1, jitter[1]))
        )
        x[i] = _pooled(scene.image[top : top + 24, left : left + 24], 2)
        labels[:, i] = SHAPES.index(obj.shape), COLOURS.index(obj.colour), SIZES.index(obj.size)
    return x, labels[0], labels[1], labels[2]


@cache
def crowds(side: Side, background: str, seed: int) -> tuple[Floats, Labels]:
    """Return whole scenes, float32 [N, 3, 12, 12], and the number of their objects minus one."""
    world = shapes.Images(SPLIT[side], size=48, count=SCENES[side], seed=seed, objects=(1, 4), background=background)
    scenes = list(world)
    return np.stack([_pooled(s.image, 4) for s in scenes]), np.array([len(s.objects) - 1 for s in scenes])


def _pooled(image: NDArray[np.uint8], by: int) -> Floats:
    """Average levels [H, W, 3] over squares of ``by`` pixels -> [3, H / by, W / by] in [0, 1]."""
    height, width, _ = image.shape
    mean = image.reshape(height // by, by, width // by, by, 3).mean((1, 3))
    return (mean.transpose(2, 0, 1) / 255).astype(np.float32)


def _random_labels() -> Task:
    """Return digits and shapes, up to 600 of each, with random labels."""
    x = np.concatenate([_rgb(digits("source")[0])[:600], objects("source", "plain", 0)[0][:600]])
    return Task(x, np.random.default_rng(5).integers(0, 10, len(x)), 10)


def _digit_source(view: Callable[[Floats], Floats], relabel: Callable[[Labels], Labels], classes: int) -> Task:
    x, y = digits("source")
    return Task(_rgb(view(x)), relabel(y), classes)


SOURCES: dict[str, Callable[[], Task]] = {
    "digits": lambda: _digit_source(lambda x: x, lambda y: y, 10),
    "digits-parity": lambda: _digit_source(lambda x: x, lambda y: y % 2, 2),
    "digits-turned": lambda: _digit_source(lambda x: np.rot90(x, 1, (1, 2)), lambda y: y, 10),
    "shapes-kinds": lambda: Task(*objects("source", "plain", 0)[:2], len(SHAPES)),
    "shapes-colours": lambda: Task(objects("source", "plain", 0)[0], objects("source", "plain", 0)[2], len(COLOURS)),
    "shapes-count": lambda: Task(*crowds("source", "plain", 1), 4),
    "random-labels": _random_labels,
    "untrained": lambda: Task(_rgb(digits("source")[0]), digits("source")[1], 10),
}


def _digits_noisy() -> Task:
    x, y = digits("target")
    return Task(_noisy(_rgb(_shifted(x, 1, 11)), 0.05, 12), y, 10)


def _digits_inverted() -> Task:
    x, y = digits("target")
    return Task(_noisy(_rgb(1 - 0.7 * x), 0.1, 13), y, 10)


def _digits_turned() -> Task:
    x, y = digits("target")
    return Task(_noisy(_rgb(np.rot90(x, 1, (1, 2))), 0.15, 14), y, 10)


def _digits_textured() -> Task:
    x, y = digits("target")
    return Task(_textured(x, 16), y, 10)


def _shapes_kinds() -> Task:
    """Return objects of four of the eight kinds."""
    x, kinds, _, _ = objects("target", "gradient", 2)
    kept = np.isin(kinds, (0, 2, 4, 5))
    return Task(x[kept], np.searchsorted((0, 2, 4, 5), kinds[kept]), 4)


def _shapes_colours() -> Task:
    x, _, colours, _ = objects("target", "clutter", 3)
    return Task(_noisy(x, 0.1, 18), colours, len(COLOURS))


def _shapes_sizes() -> Task:
    x, _, _, sizes = objects("target", "clutter", 3)
    return Task(_noisy(x, 0.1, 19), sizes, len(SIZES))


def _shapes_count() -> Task:
    """Return scenes with one object or four."""
    x, count = crowds("target", "gradient", 5)
    kept = np.isin(count, (0, 3))
    return Task(_noisy(x, 0.05, 20)[kept], count[kept] // 3, 2)


TARGETS: dict[str, Callable[[], Task]] = {
    "digits-noisy": _digits_noisy,
    "digits-inverted": _digits_inverted,
    "digits-turned": _digits_turned,
    "digits-textured": _digits_textured,
    "shapes-kinds": _shapes_kinds,
    "shapes-colours": _shapes_colours,
    "shapes-sizes": _shapes_sizes,
    "shapes-count": _shapes_count,
}
