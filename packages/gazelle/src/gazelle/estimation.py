"""`Estimator`: from pixels and head boxes to the point that each person looks at.

Shapes: H x W pixels of a picture, P people, h x w cells of a heatmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gazelle.boxes import Box
from gazelle.model import GazeLLE
from gazelle.preprocessing import Preprocess, preprocess


@dataclass(frozen=True)
class Look:
    """Where one person looks.

    Attributes:
        box: The head box in fractions of the picture, or None.
        point: The point looked at, (x, y) in fractions of the picture. It means little if ``inside`` is low.
        score: The value of the heatmap there, from 0 to 1.
        inside: The probability that the target is inside the picture. None for a model that does not tell.
        heatmap: Values from 0 to 1, float32 [h, w].
    """

    box: Box
    point: tuple[float, float]
    score: float
    inside: float | None
    heatmap: NDArray[np.float32]


@dataclass(frozen=True)
class Encoded:
    """A picture that was encoded, about whose people can be asked.

    Attributes:
        features: The features of the model, [1, C, h, w].
        size: Width and height of the picture in pixels.
    """

    features: Tensor
    size: tuple[int, int]


class Estimator:
    """A model that is asked about pictures.

    Args:
        model: The model. It is put into eval mode.
        subpixel: Whether a point is the centre of mass of the heatmap's peak (see `peak`), and not the corner of its
            cell, as in the benchmarks.
    """

    def __init__(self, model: GazeLLE, subpixel: bool = True) -> None:
        self.model = model.eval()
        self.subpixel = subpixel
        self._preprocess = preprocess_of(model)

    def encode(self, image: Any) -> Encoded:
        """Encode a picture.

        Args:
            image: A PIL image, or pixels uint8 [H, W, 3].
        """
        return self.encode_batch([image])[0]

    @torch.inference_mode()
    def encode_batch(self, images: Sequence[Any]) -> list[Encoded]:
        """Encode pictures, of any sizes, in one pass, see `encode`."""
        if not images:
            return []
        x = torch.stack([self._preprocess(image) for image in images])
        weight = self.model.linear.weight
        features = self.model.encode(x.to(weight.device, weight.dtype)).split(1)
        return [Encoded(scene, _size(image)) for scene, image in zip(features, images, strict=True)]

    def look(self, scene: Encoded, boxes: Sequence[Box]) -> list[Look]:
        """Return where people look in a picture.

        Args:
            scene: The picture.
            boxes: For each person a head box (x0, y0, x1, y1) in fractions, or None for a person without one.

        Raises:
            InputError: A box is not one, see `gazelle.boxes.check_box`.
        """
        return self.look_batch([scene], [boxes])[0]

    @torch.inference_mode()
    def look_batch(self, scenes: Sequence[Encoded], boxes: Sequence[Sequence[Box]]) -> list[list[Look]]:
        """Return where people look in pictures, in one pass, see `look`."""
        if not scenes:
            return []
        gaze = self.model.decode(torch.cat([scene.features for scene in scenes]), [list(b) for b in boxes], fill=True)
        inside = gaze["inout"] or [None] * len(scenes)
        return [self._looks(*parts) for parts in zip(boxes, gaze["heatmap"], inside, strict=True)]

    def _looks(self, boxes: Sequence[Box], heatmap: Tensor, inout: Tensor | None) -> list[Look]:
        """Return the looks of the people in one picture."""
        heatmaps = heatmap.float().cpu().numpy()
        inside = [None] * len(boxes) if inout is None else inout.tolist()
        return [
            Look(box, peak(values, self.subpixel), float(values.max()), score, values)
            for box, values, score in zip(boxes, heatmaps, inside, strict=True)
        ]

    def __call__(self, image: Any, boxes: Sequence[Box]) -> list[Look]:
        """Encode a picture, and return where people look in it, see `encode` and `look`."""
        return self.look(self.encode(image), boxes)


def _size(image: Any) -> tuple[int, int]:
    """Return width and height of a PIL image or of pixels."""
    return image.size if hasattr(image, "getpixel") else (image.shape[1], image.shape[0])


def preprocess_of(model: GazeLLE) -> Preprocess:
    """Return the preprocessing of a model: its size, and the mean and deviation that its backbone was trained with."""
    for module in (model.backbone.model, model):
        config = getattr(module, "pretrained_cfg", None) or {}
        if "mean" in config and "std" in config:
            return preprocess(model.in_size, config["mean"], config["std"])
    return preprocess(model.in_size)


def peak(heatmap: NDArray[np.float32], subpixel: bool = True) -> tuple[float, float]:
    """Return the place of the largest value as (x, y) in fractions.

    Args:
        heatmap: Values of at least 0, [h, w].
        subpixel: Whether to take the centre of mass of the 3 x 3 cells around the largest value, each at its centre. It
            is free of the half cell by which the corner of the cell is off to the top left. False gives that corner,
            the first of equal ones, as the benchmarks are defined.
    """
    h, w = heatmap.shape
    row, column = divmod(int(heatmap.argmax()), w)
    if not subpixel:
        return column / w, row / h
    rows, columns = (np.arange(max(i - 1, 0), min(i + 2, n)) for i, n in ((row, h), (column, w)))
    weights = heatmap[np.ix_(rows, columns)].astype(np.float64)
    total = weights.sum()
    if total <= 0:
        return (column + 0.5) / w, (row + 0.5) / h
    x = float(((columns + 0.5) * weights.sum(0)).sum() / total)
    y = float(((rows + 0.5) * weights.sum(1)).sum() / total)
    return x / w, y / h
