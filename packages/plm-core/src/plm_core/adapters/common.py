"""Helpers that block adapters share: heads, masks, rotations, and the table rows of the kept tokens.

Shapes as in `plm_core.blocks`; P is the number of patches, that is, of the tokens after the prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from torch import Tensor, nn

from plm_core.blocks import original_class, take_rows
from plm_core.errors import NotSupported


def identity(x: Tensor) -> Tensor:
    """Return ``x``. It stands for a norm that the block applies elsewhere, or a layer scale that it does not have."""
    return x


def no_view(block: Any, attention: object, known: str) -> NotSupported:
    """Return the error for blocks of another kind. It names the attention with its module: LoRA keeps class names."""
    kind = type(attention)
    return NotSupported(
        f"blocks of kind {original_class(block).__name__} with attention {kind.__module__}.{kind.__name__} have no "
        f"view yet; {known} has one"
    )


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[B, N, H * D] -> [B, H, N, D]."""
    # torch's exporter to ONNX by tracing takes the batch size of unflatten for a constant
    return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """[B, H, N, D] -> [B, N, H * D]."""
    return x.transpose(1, 2).flatten(2)


def in_projected(attn: nn.MultiheadAttention, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v [B, H, N, D] of torch's MultiheadAttention for tokens [B, N, C] that attend to themselves."""
    q, k, v = F.linear(normed, attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
    return split_heads(q, attn.num_heads), split_heads(k, attn.num_heads), split_heads(v, attn.num_heads)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a mask, boolean (True attends) or additive, to a bias of four dimensions to add to the logits."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))
    return with_dimensions(mask)


def with_dimensions(x: Tensor, number: int = 4) -> Tensor:
    """Add dimensions of size one in front of ``x`` until it has ``number`` of them, as broadcasting would."""
    return x.reshape((1,) * (number - x.ndim) + x.shape)


def refuse_masks(context: Mapping[str, Any], *names: str) -> None:
    """Raise NotSupported if the context has one of these masks: a mask of all tokens does not apply to merged ones."""
    for name in names:
        if context.get(name) is not None and context[name] is not False:
            raise NotSupported(f"attention with {name} cannot be restricted to the tokens that are kept")


def rotate(x: Tensor, table: Tensor, half: bool) -> Tensor:
    """Rotate the patch tokens of q or k, which are the last ones. The prefix tokens have no position.

    Args:
        x: q or k, [B, H, N, D].
        table: Sines, then cosines; [P, 2 D], or anything that broadcasts to [B, H, P, 2 D].
        half: Whether channel d pairs with d + D / 2; otherwise 2 d pairs with 2 d + 1.
    """
    prefix = x.shape[2] - table.shape[-2]
    return torch.cat([x[:, :, :prefix], apply_rot_embed_cat(x[:, :, prefix:], table, half=half)], 2)


def inverse(table: Tensor, averaged: bool) -> Tensor:
    """Return the table that undoes `rotate` by a table. Pairs of an averaged one are shorter than one, or even zero."""
    sin, cos = table.chunk(2, -1)
    if averaged:
        squared = (sin * sin + cos * cos).clamp(min=torch.finfo(table.dtype).tiny)
        sin, cos = sin / squared, cos / squared
    return torch.cat([-sin, cos], -1)


def kept_rows(table: Tensor, kept: Tensor, prefix: int) -> Tensor:
    """Take the rows of the kept tokens from a table of all patches: [..., P, D] -> [B, H or 1, n - prefix, D].

    Args:
        table: [P, D], [H, P, D] or [B, H or 1, P, D].
        kept: Indices of the kept tokens among all N, [B, n]. It begins with all the prefix tokens.
        prefix: Number of prefix tokens, which have no row in the table.
    """
    table = with_dimensions(table).expand(kept.shape[0], -1, -1, -1)
    return take_rows(table, kept[:, prefix:] - prefix, dim=2)


def averaged_rows(table: Tensor, group: Tensor, size: Tensor, prefix: int) -> Tensor:
    """Average the rows of a table of all patches over the patches of each token.

    For a rotary table this is exact: a token turned by the mean of several rows is the mean of the tokens turned by
    each of them, so its logits are the means of their logits. A frequency at which the patches disagree fades. A mean
    of angles would keep its full length instead, in a direction that none of them has, and is not unique.

    Args:
        table: [P, D], [H, P, D] or [B, H or 1, P, D].
        group: The token that each of the N original tokens is part of, [B, N]. Prefix tokens come first in both, alone.
        size: The number of original tokens in each token, [B, n, 1].
        prefix: Number of prefix tokens, which have no row in the table.

    Returns:
        [B, H or 1, n - prefix, D], summed in float32 or better.
    """
    table = with_dimensions(table).expand(group.shape[0], -1, -1, -1)
    index = (group[:, prefix:] - prefix)[:, None, :, None].expand_as(table)
    count, precise = size.shape[1] - prefix, torch.promote_types(table.dtype, torch.float32)
    total = table.new_zeros(*table.shape[:2], count, table.shape[3], dtype=precise)
    return (total.scatter_add(2, index, table.to(precise)) / size[:, None, prefix:]).to(table.dtype)
