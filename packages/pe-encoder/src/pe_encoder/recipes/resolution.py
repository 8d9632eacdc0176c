"""Progressive resolution: a training that begins with small images (arXiv 2504.13181, section 2.1).

The absolute positions stay those of the model's own size. A stage with smaller images uses averages of them. A change
of the stage is then no change of a parameter, which the optimiser, DDP and a checkpoint would have to follow, and each
position learns in every stage.

Shapes: B batch, C channels of the tower.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pe_encoder.model import VisionTower, resize_positions
from pe_encoder.recipes.tables import Stages
from plm_core import InputError


def check_stages(stages: Stages, tower: VisionTower) -> None:
    """Raise an InputError unless a tower can be trained in these stages."""
    if not stages:
        return
    rows, columns = tower.image_size
    if rows != columns or stages[-1][1] != rows:
        raise InputError(
            f"stages ends with images of {stages[-1][1]} pixels; the model's own size, {rows} x {columns}, is the last"
        )
    for _, size in stages:
        if size % tower.patch_size:
            raise InputError(f"stages has images of {size} pixels; multiples of the patch, {tower.patch_size}, are")


def size_at(stages: Stages, done: float) -> int:
    """Return the size of the images when a share of the training is done.

    Args:
        stages: The stages, at least one.
        done: The share, from 0 to 1.
    """
    end = 0.0
    for share, size in stages:
        end += share
        if done < end - 1e-9:
            return size
    return stages[-1][1]


def resize(images: Tensor, size: int) -> Tensor:
    """Resize images to a square: [B, channels, H, W] -> [B, channels, size, size]."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def positions(tower: VisionTower, grid: tuple[int, int]) -> Tensor | None:
    """Return the absolute positions of a stage, [1, N, C], or None if the tower has none.

    They are averages of the tower's own, so that the gradient of a small image reaches all of these. At the tower's own
    size they are its own.
    """
    table = tower.pos_embed
    if table is None or grid == tower.grid:
        return table
    prefix = tower.num_prefix_tokens
    patches = table[:, prefix:].unflatten(1, tower.grid).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=grid, mode="bilinear", antialias=True, align_corners=False)
    return torch.cat([table[:, :prefix], patches.flatten(2).transpose(1, 2)], 1)


def smooth(tower: VisionTower, size: int) -> None:
    """Let random positions vary no faster than a stage can tell, before a training from scratch.

    What is finer would not be learned before the stages with larger images, which would begin with noise.

    Args:
        tower: The tower, whose positions are changed in place.
        size: Size of the images of the first stage.
    """
    grid = (size // tower.patch_size, size // tower.patch_size)
    coarse = positions(tower, grid)
    if tower.pos_embed is not None and coarse is not None and grid != tower.grid:
        with torch.no_grad():
            tower.pos_embed.copy_(resize_positions(coarse, grid, tower.grid, tower.num_prefix_tokens))
