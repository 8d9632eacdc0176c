"""The source and target tasks of the mini-benchmark: digits and shapes as 12x12 RGB images, all of it deterministic.

No image of a target is in a source. Digits with even numbers are for the sources and those with odd numbers for the
targets (the same people wrote both); scenes of `plm_core.shapes` are of its two splits. Targets made of digits are
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
    """Images in [0, 1], float32 [N, 3, 12, 12], and labels int64 [N] of ``classes`` classes."""

    x: Floats
    y: Labels
    classes: int


@cache
def _digits(side: Side) -> tuple[Floats, Labels]:
    """Digits in the middle of a black square, float32 [N, 12, 12]."""
    parts = [samples.digits("train"), samples.digits("heldout")]
    pixels = np.stack([np.asarray(image, np.float32) / 255 for images, _ in parts for image in images])
    labels = np.concatenate([labels for _, labels in parts])
    mine = np.arange(len(labels)) % 2 == (side == "target")
    return np.pad(pixels[mine], ((0, 0), (2, 2), (2, 2))), labels[mine]


def _rgb(grey: Floats) -> Floats:
    return np.repeat(grey[:, None], 3, axis=1)


def _noisy(x: Floats, sd: float, seed: int) -> Floats:
    noise = np.random.default_rng(seed).standard_normal(x.shape)
    return np.clip(x + sd * noise, 0, 1).astype(np.float32)


def _shifted(x: Floats, most: int, seed: int) -> Floats:
    """Each image [H, W] moved by up to ``most`` pixels both ways."""
    moves = np.random.default_rng(seed).integers(-most, most + 1, (len(x), 2))
    return np.stack([np.roll(image, tuple(move), (0, 1)) for image, move in zip(x, moves, strict=True)])


def _textured(grey: Floats, seed: int) -> Floats:
    """Digits in a colour on blotches of other colours, float32 [N, 3, 12, 12]."""
    rng = np.random.default_rng(seed)
    blotches = rng.random((len(grey), 3, 4, 4)).repeat(3, axis=2).repeat(3, axis=3)
    ink = 0.7 + 0.3 * rng.random((len(grey), 3, 1, 1))
    alpha = grey[:, None]
    return (alpha * ink + (1 - alpha) * 0.4 * blotches).astype(np.float32)


@cache
def _objects(side: Side, background: str, seed: int) -> tuple[Floats, Labels, Labels, Labels]:
    """Close-ups of single objects, float32 [N, 3, 12, 12], with kind, colour and size."""
    count, rng = SCENES[side], np.random.default_rng(seed)
    world = shapes.Images(SPLIT[side], size=48, count=count, seed=seed, objects=(1, 1), background=background)
    x, labels = np.empty((count, 3, SIZE, SIZE), np.float32), np.empty((3, count), np.int64)
    for i, scene in enumerate(world):
        thing = scene.objects[0]
        x0, y0, x1, y1 = thing.box
        jitter = rng.integers(-3, 4, 2)
        left, top = (
            int(np.clip((a + b) / 2 - 12 + j, 0, 24)) for a, b, j in ((x0, x1, jitter[0]), (y0, y1, jitter[1]))
        )
        x[i] = _pooled(scene.image[top : top + 24, left : left + 24], 2)
        labels[:, i] = SHAPES.index(thing.shape), COLOURS.index(thing.colour), SIZES.index(thing.size)
    return x, labels[0], labels[1], labels[2]


@cache
def _crowds(side: Side, background: str, seed: int) -> tuple[Floats, Labels]:
    """Whole scenes, float32 [N, 3, 12, 12], and how many objects there are, less one."""
    world = shapes.Images(SPLIT[side], size=48, count=SCENES[side], seed=seed, objects=(1, 4), background=background)
    scenes = list(world)
    return np.stack([_pooled(s.image, 4) for s in scenes]), np.array([len(s.objects) - 1 for s in scenes])


def _pooled(image: NDArray[np.uint8], by: int) -> Floats:
    """[H, W, 3] levels to [3, H / by, W / by] in [0, 1]."""
    height, width, _ = image.shape
    mean = image.reshape(height // by, by, width // by, by, 3).mean((1, 3))
    return (mean.transpose(2, 0, 1) / 255).astype(np.float32)


def _random_labels() -> Task:
    """Digits and shapes, half and half, with labels that mean nothing."""
    x = np.concatenate([_rgb(_digits("source")[0])[:600], _objects("source", "plain", 0)[0][:600]])
    return Task(x, np.random.default_rng(5).integers(0, 10, len(x)), 10)


def _digit_source(view: Callable[[Floats], Floats], relabel: Callable[[Labels], Labels], classes: int) -> Task:
    x, y = _digits("source")
    return Task(_rgb(view(x)), relabel(y), classes)


SOURCES: dict[str, Callable[[], Task]] = {
    "digits": lambda: _digit_source(lambda x: x, lambda y: y, 10),
    "digits-parity": lambda: _digit_source(lambda x: x, lambda y: y % 2, 2),
    "digits-turned": lambda: _digit_source(lambda x: np.rot90(x, 1, (1, 2)), lambda y: y, 10),
    "shapes-kinds": lambda: Task(*_objects("source", "plain", 0)[:2], len(SHAPES)),
    "shapes-colours": lambda: Task(_objects("source", "plain", 0)[0], _objects("source", "plain", 0)[2], len(COLOURS)),
    "shapes-count": lambda: Task(*_crowds("source", "plain", 1), 4),
    "random-labels": _random_labels,
    "untrained": lambda: Task(_rgb(_digits("source")[0]), _digits("source")[1], 10),
}


def _digits_noisy() -> Task:
    x, y = _digits("target")
    return Task(_noisy(_rgb(_shifted(x, 1, 11)), 0.05, 12), y, 10)


def _digits_inverted() -> Task:
    x, y = _digits("target")
    return Task(_noisy(_rgb(1 - 0.7 * x), 0.1, 13), y, 10)


def _digits_turned() -> Task:
    x, y = _digits("target")
    return Task(_noisy(_rgb(np.rot90(x, 1, (1, 2))), 0.15, 14), y, 10)


def _digits_textured() -> Task:
    x, y = _digits("target")
    return Task(_textured(x, 16), y, 10)


def _shapes_kinds() -> Task:
    """Four of the eight kinds."""
    x, kinds, _, _ = _objects("target", "gradient", 2)
    chosen = np.isin(kinds, (0, 2, 4, 5))
    return Task(x[chosen], np.searchsorted((0, 2, 4, 5), kinds[chosen]), 4)


def _shapes_colours() -> Task:
    x, _, colours, _ = _objects("target", "clutter", 3)
    return Task(_noisy(x, 0.1, 18), colours, len(COLOURS))


def _shapes_sizes() -> Task:
    x, _, _, sizes = _objects("target", "clutter", 3)
    return Task(_noisy(x, 0.1, 19), sizes, len(SIZES))


def _shapes_count() -> Task:
    """One object or four."""
    x, count = _crowds("target", "gradient", 5)
    chosen = np.isin(count, (0, 3))
    return Task(_noisy(x, 0.05, 20)[chosen], count[chosen] // 3, 2)


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
