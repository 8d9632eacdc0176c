"""The block adapter through which model transforms reach into a vision tower.

Its blocks take tokens as [B, N, C] and the rotations of all tokens as ``rope`` (see `pe_encoder.rope`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from pe_encoder.model import VisionTower
from pe_encoder.rope import inverse, rotate
from plm_core.adapters.common import averaged_rows, kept_rows
from plm_core.blocks import BlockView, ModelView, Tokens


def view(model: VisionTower) -> ModelView:
    """Return the view of a vision tower. Its class token, if any, comes first, and its answer pools the patches."""
    return ModelView(
        model,
        tuple(_block(block, f"blocks.{i}") for i, block in enumerate(model.blocks)),
        Tokens(class_tokens=model.num_prefix_tokens, positions="rotary" if model.use_rope2d else "absolute"),
        returns_maps=model.global_pool == "",
        pools_patches=model.global_pool in ("map", "avg", "mean"),
    )


def _block(block: Any, name: str) -> BlockView:
    attn = block.attn

    def unrotate(key: Tensor, rope: Tensor | None = None, averaged: bool = False, **context: Any) -> Tensor:
        return key if rope is None else rotate(key, inverse(rope, averaged))

    return BlockView(
        block=block,
        name=name,
        num_heads=attn.num_heads,
        normalize=block.norm1,
        qkv=lambda normed, rope=None, **context: attn.project(normed, rope),
        proj=lambda attended, normed: block.attention_branch(attn.join(attended)),
        residual=lambda x, normed: x,
        view_of=partial(_block, name=name),
        mlp_residual=block.mlp_residual,
        hidden=(attn,),
        select=_select,
        unrotate=unrotate,
        average=_average,
    )


def _select(context: Mapping[str, Any], kept: Tensor) -> Mapping[str, Any]:
    rope = context.get("rope")
    return context if rope is None else {**context, "rope": kept_rows(rope, kept, 0)}


def _average(context: Mapping[str, Any], group: Tensor, size: Tensor) -> Mapping[str, Any]:
    rope = context.get("rope")
    return context if rope is None else {**context, "rope": averaged_rows(rope, group, size, 0), "averaged": True}
