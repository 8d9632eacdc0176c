"""Decomposed relative positions (ViTDet, MViTv2): one table per axis, looked up by distance.

Shapes: H, W rows and columns, D channels per head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiera.tokens import is_fixed


def relative_tables(size: Sequence[int], head_dim: int, **dd: Any) -> tuple[nn.Parameter, nn.Parameter]:
    """Create the tables for both axes of a (height, width) grid, [2 * side - 1, head_dim] each.

    They start at zero, as in ViTDet, so that finetuning starts from the pretrained attention.
    """
    rows, columns = (nn.Parameter(torch.zeros(2 * side - 1, head_dim, **dd)) for side in size)
    return rows, columns


def relative_positions(q_side: int, k_side: int, table: Tensor) -> Tensor:
    """Look up the row of a relative position table for every pair along one axis: [q_side, k_side, D].

    Args:
        q_side: Number of queries along the axis.
        k_side: Number of keys along the axis.
        table: Relative position table [2 * side - 1, D]; a table for another side is interpolated linearly.
    """
    longest = 2 * max(q_side, k_side) - 1
    if not is_fixed((q_side, k_side)) or len(table) != longest:
        table = F.interpolate(table.T[None], size=longest, mode="linear")[0].T
    q = torch.arange(q_side, device=table.device)[:, None]
    k = torch.arange(k_side, device=table.device)[None]
    if q_side == k_side:  # without fractions, which exporters cannot follow for dynamic sizes
        return table[q - k + k_side - 1]
    q_step, k_step = max(k_side / q_side, 1.0), max(q_side / k_side, 1.0)
    return table[(q * q_step - k * k_step + (k_side - 1) * k_step).long()]


def relative_bias(q: Tensor, table_h: Tensor, table_w: Tensor, q_size: Sequence[int], k_size: Sequence[int]) -> Tensor:
    """Return the decomposed relative position bias (ViTDet, MViTv2), which is added to the scaled scores.

    Args:
        q: Unscaled queries [..., H * W, D].
        table_h: Relative position table of the rows, [2 * height - 1, D].
        table_w: Relative position table of the columns, [2 * width - 1, D].
        q_size: (height, width) of the queries.
        k_size: (height, width) of the keys.

    Returns:
        [..., q height * q width, k height * k width].
    """
    grid = q.unflatten(-2, q_size)
    rows = torch.einsum("...hwd,hkd->...hwk", grid, relative_positions(q_size[0], k_size[0], table_h))
    columns = torch.einsum("...hwd,wkd->...hwk", grid, relative_positions(q_size[1], k_size[1], table_w))
    return (rows[..., :, None] + columns[..., None, :]).flatten(-2).flatten(-3, -2)
