"""Decomposed relative positions (ViTDet, MViTv2): one table per axis, looked up by distance.

Shapes: H, W rows and columns, D channels per head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def relative_positions(q_side: int, k_side: int, table: Tensor) -> Tensor:
    """Rows of a relative position table for every pair along one axis: [q_side, k_side, D].

    Args:
        q_side: Queries along the axis.
        k_side: Keys along the axis.
        table: [2 * side - 1, D]; interpolated linearly when made for another side.
    """
    longest = 2 * max(q_side, k_side) - 1
    if len(table) != longest:
        table = F.interpolate(table.T[None], size=longest, mode="linear")[0].T
    q = torch.arange(q_side, device=table.device)[:, None] * max(k_side / q_side, 1.0)
    k = torch.arange(k_side, device=table.device)[None] * max(q_side / k_side, 1.0)
    distance = q - k + (k_side - 1) * max(q_side / k_side, 1.0)
    return table[distance.long()]


def relative_bias(q: Tensor, table_h: Tensor, table_w: Tensor, q_size: Sequence[int], k_size: Sequence[int]) -> Tensor:
    """Decomposed relative position bias (ViTDet, MViTv2), to be added to the scaled scores.

    Args:
        q: Unscaled queries [..., H * W, D].
        table_h: [2 * height - 1, D].
        table_w: [2 * width - 1, D].
        q_size: (height, width) of the queries.
        k_size: (height, width) of the keys.

    Returns:
        [..., q height * q width, k height * k width].
    """
    grid = q.unflatten(-2, q_size)
    rows = torch.einsum("...hwd,hkd->...hwk", grid, relative_positions(q_size[0], k_size[0], table_h))
    columns = torch.einsum("...hwd,wkd->...hwk", grid, relative_positions(q_size[1], k_size[1], table_w))
    return (rows[..., :, None] + columns[..., None, :]).flatten(-2).flatten(-3, -2)
