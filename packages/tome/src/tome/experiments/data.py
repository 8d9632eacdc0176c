"""The data of the studies: digits and silhouettes of 32 pixels, in memory."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from plm_core import samples
from plm_core.training.micro import InMemory
from tome.micro.shapes import scenes

Split = Literal["train", "heldout"]


def digits(split: Split, count: int) -> InMemory:
    """Return handwritten digits, enlarged from 8 to 32 pixels: float [1, 32, 32] from -1 to 1, and their labels.

    Training images are shifted at random by up to two pixels.
    """
    images, labels = samples.digits(split)
    large = [np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), np.float32) for image in images[:count]]
    x = torch.from_numpy(np.stack(large))[:, None] / 127.5 - 1
    return InMemory(x, torch.from_numpy(labels[:count]), _shift if split == "train" else None)


@cache
def silhouettes(split: Split, count: int) -> InMemory:
    """Return the silhouettes of the shapes of `tome.micro.shapes.scenes`: float [1, 32, 32] from -1 to 1, and labels.

    A pixel's value is its distance from the background colour. Images are cut out around the shape. Training images
    are shifted at random by up to two pixels.
    """
    coloured = scenes(split, count)
    distance = (coloured.x - coloured.x[:, :, :1, :1]).abs().amax(1)  # the corner is background
    distance = F.pad(distance / distance.amax((1, 2), keepdim=True), (16,) * 4)
    x = distance.new_empty(count, 1, 32, 32)
    for i, image in enumerate(distance):
        top, left = (int(places.float().mul(2).mean()) // 2 - 16 for places in (image > 0.5).nonzero(as_tuple=True))
        x[i, 0] = image[top : top + 32, left : left + 32]
    return InMemory(2 * x - 1, coloured.y, _shift if split == "train" else None)


def _shift(x: Tensor) -> Tensor:
    """Shift an image at random by up to two pixels."""
    top, left = torch.randint(0, 5, (2,)).tolist()
    return F.pad(x, (2,) * 4, value=-1.0)[:, top : top + 32, left : left + 32]
