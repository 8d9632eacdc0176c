"""Second teachers of the recipe ``pe-spatial``: functions from images to features whose similarities show regions.

A teacher is named in the config as ``"module:function"``. It takes the images as the student gets them, float
[B, 3, H, W], and returns features [B, D, rows, columns] of any D and grid, which are resized to the student's grid.
The paper's is SAM 2.1, prompted with a grid of points: one channel for the mask logits of each point. No such model is
among our dependencies, so the one here looks at colours only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 4
"""Levels of each of red, green and blue."""
SPREAD = 0.35
"""Standard deviation around a level, for values from -1 to 1."""
CELLS = 64
"""The most rows and columns of the features."""


def colours(images: Tensor) -> Tensor:
    """Return soft histograms of the colours in the cells of a grid: parts of one colour have similar features.

    It cuts pictures into patches of like colours, as superpixels do, and knows nothing of objects.

    Args:
        images: [B, 3, H, W], normalised to about -1 to 1.

    Returns:
        Features [B, 64, rows, columns], with at most 64 rows and columns.
    """
    axis = torch.linspace(-1, 1, LEVELS, device=images.device, dtype=images.dtype)
    near = torch.exp(-((images[:, :, None] - axis.view(-1, 1, 1)) ** 2) / (2 * SPREAD**2))  # B, 3, LEVELS, H, W
    red, green, blue = near.unbind(1)
    joint = red[:, :, None, None] * green[:, None, :, None] * blue[:, None, None]
    grid = (min(images.shape[2], CELLS), min(images.shape[3], CELLS))
    return F.adaptive_avg_pool2d(joint.flatten(1, 3), grid)
