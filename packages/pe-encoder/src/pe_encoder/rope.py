"""Rotary positions in two dimensions, as the Perception Encoder uses them (arXiv 2504.13181, section 2.1).

A head of D channels has D / 2 pairs of neighbouring channels. Each pair is turned by an angle: the first half of the
pairs by the column of the token, times a frequency, and the second half by its row. Angles, sines and cosines are
float32 at every precision of the model, since large grids need the digits.

A table of rotations has a row for each token and holds a pair (cos, sin) for each pair of channels, interleaved.
Shapes: B batch, N tokens, H heads, D channels per head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pe_encoder.tracing import is_traced

BASE = 10000.0
"""The longest wavelength of a frequency, in tokens, over 2 pi."""


def rotations(
    grid: Sequence[int],
    head_dim: int,
    class_token: bool,
    reference: Sequence[int] | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Return the table of the rotations of a grid of tokens in row-major order.

    Args:
        grid: Rows and columns.
        head_dim: D, a multiple of 4.
        class_token: Whether a class token comes first. It is not turned, and the positions of the patches begin at 1.
        reference: Rows and columns on which the positions are stretched, as timm does with those of the training. None
            for plain positions, as in the original.
        device: Device of the table.

    Returns:
        float32 [N, D], pairs of cosine and sine.
    """
    first = 1.0 if class_token else 0.0
    frequencies = BASE ** (-4.0 / head_dim * torch.arange(head_dim // 4, dtype=torch.float32, device=device))
    rows, columns = (torch.arange(side, dtype=torch.float32, device=device) + first for side in grid)
    if reference is not None:
        rows, columns = rows / grid[0] * reference[0], columns / grid[1] * reference[1]
    angles = torch.stack([columns.expand(grid[0], -1), rows[:, None].expand(-1, grid[1])], -1).flatten(0, 1)
    angles = (angles[:, :, None] * frequencies).flatten(1)
    if class_token:
        angles = torch.cat([angles.new_zeros(1, angles.shape[1]), angles])
    return torch.stack([angles.cos(), angles.sin()], -1).flatten(1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn the pairs of channels of ``x`` by a table.

    Args:
        x: [..., D], of any floating dtype. It is turned in float32 or better.
        table: Rotations that broadcast to ``x``.

    Returns:
        A tensor like ``x``.
    """
    precise = torch.promote_types(x.dtype, torch.float32)
    pairs, turns = _pairs(x.to(precise)), _pairs(table)
    if _has_complex_numbers(x):
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turns))
    else:
        first, second = pairs.unbind(-1)
        cos, sin = turns.unbind(-1)
        turned = torch.stack([first * cos - second * sin, second * cos + first * sin], -1)
    return turned.view(x.shape).to(x.dtype)


def inverse(table: Tensor, averaged: bool) -> Tensor:
    """Return the table that undoes a table. Pairs of an averaged table are shorter than one, or even zero."""
    cos, sin = _pairs(table).unbind(-1)
    if averaged:
        squared = (cos * cos + sin * sin).clamp(min=torch.finfo(table.dtype).tiny)
        cos, sin = cos / squared, sin / squared
    return torch.stack([cos, -sin], -1).flatten(-2)


def _pairs(x: Tensor) -> Tensor:
    """[..., D] -> [..., D / 2, 2]."""
    return x.view(*x.shape[:-1], x.shape[-1] // 2, 2)


def _has_complex_numbers(x: Tensor) -> bool:
    """Return whether pairs can be turned as complex numbers: in one pass, but not in compiled and exported programs."""
    return x.device.type in ("cpu", "cuda", "meta") and not is_traced()
