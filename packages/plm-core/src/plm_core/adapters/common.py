"""What block adapters have in common: heads, masks, rotations, and the rows of tables for the tokens that are kept.

Shapes as in `plm_core.blocks`; P is the number of patches, the tokens without the prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import apply_rot_embed_cat
from torch import Tensor

from plm_core.blocks import take_rows
from plm_core.errors import NotSupported


def identity(x: Tensor) -> Tensor:
    """``x``: the normalisation of blocks that have it elsewhere, a layer scale that is not there."""
    return x


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[B, N, H * D] -> [B, H, N, D]."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """[B, H, N, D] -> [B, N, H * D]."""
    return x.transpose(1, 2).flatten(2)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask, boolean (True attends) or additive, as what is added to the logits, with all four dimensions."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))
    return with_dimensions(mask)


def with_dimensions(x: Tensor, number: int = 4) -> Tensor:
    """``x`` with dimensions of one in front, as broadcasting would add them."""
    return x.reshape((1,) * (number - x.ndim) + x.shape)


def refuse_masks(context: Mapping[str, Any], *names: str) -> None:
    """Raise NotSupported when one of these is in the context: a mask of all tokens says nothing about merged ones."""
    for name in names:
        if context.get(name) is not None and context[name] is not False:
            raise NotSupported(f"attention with {name} cannot be told for the tokens that are kept only")


def rotate(x: Tensor, table: Tensor, half: bool, back: bool = False) -> Tensor:
    """Rotate the patch tokens of q or k, which are the last ones; the prefix has no place.

    Args:
        x: [B, H, N, D].
        table: Sines, then cosines; [P, 2 D], or anything that broadcasts to [B, H, P, 2 D].
        half: Pairs are channels d and d + D / 2, else 2 d and 2 d + 1.
        back: The other way round.
    """
    if back:
        sin, cos = table.chunk(2, -1)
        table = torch.cat([-sin, cos], -1)
    prefix = x.shape[2] - table.shape[-2]
    return torch.cat([x[:, :, :prefix], apply_rot_embed_cat(x[:, :, prefix:], table, half=half)], 2)


def kept_rows(table: Tensor, kept: Tensor, prefix: int) -> Tensor:
    """The rows of the tokens that are kept, of a table of patches: [..., P, D] -> [B, H or 1, n - prefix, D].

    Args:
        table: [P, D], [H, P, D] or [B, H or 1, P, D].
        kept: [B, n], places among all N tokens; those of the prefix are all there, and first.
        prefix: Number of tokens without a row.
    """
    table = with_dimensions(table).expand(kept.shape[0], -1, -1, -1)
    return take_rows(table, kept[:, prefix:] - prefix, dim=2)
