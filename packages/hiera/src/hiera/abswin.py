"""Absolute Win position embeddings ("Window Attention is Bugged", arXiv 2311.05613).

A learned absolute embedding inside windows becomes a repeated tile, and interpolating it for another input size breaks
the tile's period against the windows. The fix: learn the tile and a global embedding apart, tile the one and
interpolate the other.

Shapes: C channels; embeddings are channels-first like images, results channels-last like token grids.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_core import InputError


def abs_win(global_embed: Tensor, window_embed: Tensor, grid: Sequence[int], antialias: bool = False) -> Tensor:
    """Position embedding of any grid (figure 3 of the paper).

    Args:
        global_embed: [1, C, g, g], interpolated (bicubic) to the grid, also when it has its size.
        window_embed: [1, C, w, w], tiled.
        grid: (height, width) in tokens, multiples of the window.
        antialias: As timm's Hiera does; SAM 2 and what follows it do not. The two differ at every size but the own.

    Returns:
        [1, height, width, C].
    """
    return (_upsample(global_embed, grid, antialias) + _tile(window_embed, grid)).movedim(1, -1)


def _upsample(embed: Tensor, grid: Sequence[int], antialias: bool) -> Tensor:
    return F.interpolate(embed, size=tuple(grid), mode="bicubic", align_corners=False, antialias=antialias)


def _tile(window: Tensor, grid: Sequence[int]) -> Tensor:
    times = [side // size for side, size in zip(grid, window.shape[2:], strict=True)]
    if any(side % size for side, size in zip(grid, window.shape[2:], strict=True)):
        raise InputError(f"grid {tuple(grid)} is not a multiple of the window {tuple(window.shape[2:])}")
    return window.tile(1, 1, *times)


def tile_positions(embed: Tensor, grid: Sequence[int]) -> Tensor:
    """Tile a position embedding [1, h, w, C] over a grid, cropped at the end: [1, H, W, C]; as is when sizes agree.

    For ViTDet this is the whole method. For HieraDet it is the outer step of the paper's recursion, applied to the
    result of `abs_win`.
    """
    height, width = embed.shape[1:3]
    times = (-(-grid[0] // height), -(-grid[1] // width))
    return embed.tile(1, *times, 1)[:, : grid[0], : grid[1]]


def split_plain(positions: Tensor, window: Sequence[int], global_size: Sequence[int]) -> tuple[Tensor, Tensor, float]:
    """Turn a plain position embedding into a window and a global one.

    Our own recipe; the paper trains with Absolute Win from the start. The window embedding is the mean over the
    windows; what remains is averaged by area to the global one's size. Of a plain embedding that is a tile plus a
    constant per window, both come back at ``global_size`` = number of windows, but for a constant that moves between
    the two.

    Args:
        positions: [1, height, width, C], of a checkpoint without Absolute Win.
        window: (height, width) of a window; must divide the grid.
        global_size: Size of the global embedding.

    Returns:
        (global [1, C, *global_size], window [1, C, *window], relative error of the sum at the native size).
    """
    p = positions.movedim(-1, 1)
    (height, width), (tall, wide) = p.shape[2:], window
    if height % tall or width % wide:
        raise InputError(f"position grid {(height, width)} is not a multiple of the window {tuple(window)}")
    tile = p.unflatten(3, (-1, wide)).unflatten(2, (-1, tall)).mean((2, 4))
    rest = F.adaptive_avg_pool2d(p - _tile(tile, (height, width)), (global_size[0], global_size[1]))
    back = abs_win(rest, tile, (height, width))
    error = torch.linalg.vector_norm(back - positions) / torch.linalg.vector_norm(positions).clamp_min(1e-12)
    return rest, tile, float(error)
