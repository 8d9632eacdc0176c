"""Absolute Win position embeddings ("Window Attention is Bugged", arXiv 2311.05613).

With attention in windows, a learned absolute embedding becomes a repeated tile. Interpolating it for another input size
changes the tile's period, which then no longer matches the windows. The fix is to learn two embeddings: one for a
window, which is tiled, and a global one, which is interpolated.

Shapes: C channels. Embeddings are channels-first like images, results channels-last like token grids.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hiera.tokens import channels_first, channels_last
from plm_core import InputError


def abs_win(global_embed: Tensor, window_embed: Tensor, grid: Sequence[int], antialias: bool = False) -> Tensor:
    """Return the position embedding of any grid (figure 3 of the paper).

    Args:
        global_embed: Global embedding [1, C, g, g]; it is interpolated (bicubic) to the grid, even if sizes agree.
        window_embed: Window embedding [1, C, w, w]; it is tiled over the grid.
        grid: (height, width) in tokens, multiples of the window.
        antialias: Whether to interpolate with antialiasing. timm's Hiera does so; SAM 2 and its successors do not. The
            results differ at every grid size but the global embedding's own.

    Returns:
        [1, height, width, C].
    """
    return channels_last(_upsample(global_embed, grid, antialias) + _tile(window_embed, grid))


def _upsample(embed: Tensor, grid: Sequence[int], antialias: bool) -> Tensor:
    if not antialias:
        return F.interpolate(embed, size=tuple(grid), mode="bicubic", align_corners=False)
    rows, columns = (_antialiased(old, new, embed.device) for old, new in zip(embed.shape[2:], grid, strict=True))
    return (rows @ embed.float() @ columns.T).to(embed.dtype)


def _antialiased(old: int, new: int, device: torch.device) -> Tensor:
    """Return the matrix [new, old] of torch's antialiased bicubic interpolation along one axis.

    torch's own function has no half precision on the CPU, and its exporter to ONNX by tracing does not know it.
    """
    scale = old / new
    centres = (torch.arange(new, device=device, dtype=torch.float32) + 0.5) * scale
    distance = torch.arange(old, device=device, dtype=torch.float32) + 0.5 - centres[:, None]
    t = (distance / max(scale, 1.0)).abs()
    near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    weights = torch.where(t < 1, near, torch.where(t < 2, far, 0.0))
    return weights / weights.sum(1, keepdim=True)


def _tile(window: Tensor, grid: Sequence[int]) -> Tensor:
    repeats = [side // size for side, size in zip(grid, window.shape[2:], strict=True)]
    if any(side % size for side, size in zip(grid, window.shape[2:], strict=True)):
        raise InputError(f"grid {tuple(grid)} is not a multiple of the window {tuple(window.shape[2:])}")
    return window.tile(1, 1, *repeats)


def tile_positions(embed: Tensor, grid: Sequence[int]) -> Tensor:
    """Tile a position embedding [1, h, w, C] over a grid and crop it at the end: [1, H, W, C].

    An embedding of the grid's own size is returned unchanged. For ViTDet this is the whole method. For HieraDet it is
    the outer step of the paper's recursion, applied to the result of `abs_win`.
    """
    height, width = embed.shape[1:3]
    repeats = ((grid[0] + height - 1) // height, (grid[1] + width - 1) // width)
    return embed.tile(1, *repeats, 1)[:, : grid[0], : grid[1]]


def split_plain(positions: Tensor, window: Sequence[int], global_size: Sequence[int]) -> tuple[Tensor, Tensor, float]:
    """Split a plain position embedding into a global and a window embedding.

    This method is our own; the paper trains with Absolute Win from the start. The window embedding is the mean over all
    windows. The remainder is averaged by area to the size of the global embedding. If the plain embedding is a tile
    plus a constant per window, and ``global_size`` is the number of windows, both parts are recovered up to a constant
    that moves from one to the other.

    Args:
        positions: Position embedding [1, height, width, C] of a checkpoint without Absolute Win.
        window: (height, width) of a window in tokens; must divide the grid.
        global_size: (height, width) of the global embedding.

    Returns:
        (global [1, C, *global_size], window [1, C, *window], relative error of the sum at the native size).
    """
    plain = channels_first(positions)
    height, width = plain.shape[2:]
    window_height, window_width = window
    if height % window_height or width % window_width:
        raise InputError(f"position grid {(height, width)} is not a multiple of the window {tuple(window)}")
    tile = plain.unflatten(3, (-1, window_width)).unflatten(2, (-1, window_height)).mean((2, 4))
    remainder = plain - _tile(tile, (height, width))
    global_embed = F.adaptive_avg_pool2d(remainder, (global_size[0], global_size[1]))
    restored = abs_win(global_embed, tile, (height, width))
    error = torch.linalg.vector_norm(restored - positions) / torch.linalg.vector_norm(positions).clamp_min(1e-12)
    return global_embed, tile, float(error)
