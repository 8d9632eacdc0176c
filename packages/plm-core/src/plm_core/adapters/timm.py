"""Block adapters for the timm transformers that have one width throughout: VisionTransformer, Eva and Beit.

These cover ViT, DeiT, DINOv2, CLIP and SigLIP towers; EVA, EVA-02, DINOv3, Perception Encoder and rotary ViTs; BEiT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention, AttentionRope
from timm.models import beit as timm_beit
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from plm_core.adapters.common import (
    additive,
    averaged_rows,
    identity,
    inverse,
    join_heads,
    kept_rows,
    no_view,
    refuse_masks,
    rotate,
    split_heads,
)
from plm_core.blocks import BlockView, ModelView, Tokens, forward_class
from plm_core.errors import NotSupported


def vision_transformer(model: VisionTransformer) -> ModelView:
    """Return the view of a timm VisionTransformer.

    Raises:
        NotSupported: The blocks are not timm's standard pre-norm blocks.
    """
    blocks = _blocks(model, _vit_block, {Block}, {Attention})
    distill = int(isinstance(model, VisionTransformerDistilled))
    class_tokens = int(model.cls_token is not None)
    registers = model.num_prefix_tokens - class_tokens - distill
    return ModelView(model, blocks, Tokens(class_tokens, distill, registers), pools_patches=_pools_patches(model))


def eva(model: Eva) -> ModelView:
    """Return the view of a timm Eva. Rotary positions, where the model has them, are the context ``rope`` of a block.

    Raises:
        NotSupported: The blocks are not timm's own blocks.
    """
    blocks = _blocks(model, _eva_block, {EvaBlock, EvaBlockPostNorm}, {EvaAttention, AttentionRope})
    class_tokens = int(model.cls_token is not None)
    positions = "absolute" if model.rope is None else "rotary"
    tokens = Tokens(class_tokens, 0, model.num_prefix_tokens - class_tokens, positions)
    return ModelView(model, blocks, tokens, pools_patches=_pools_patches(model))


def beit(model: Beit) -> ModelView:
    """Return the view of a timm Beit. Its ``bias`` holds the relative positions, both those of a block and shared ones.

    Raises:
        NotSupported: The blocks are not timm's own blocks.
    """
    blocks = _blocks(model, _beit_block, {timm_beit.Block}, {timm_beit.Attention})
    relative = model.rel_pos_bias is not None or any(
        block.attn.relative_position_bias_table is not None for block in model.blocks
    )
    tokens = Tokens(class_tokens=1, positions="bias" if relative else "absolute")
    return ModelView(model, blocks, tokens, pools_patches=_pools_patches(model))


def _pools_patches(model: Any) -> bool:
    return model.global_pool not in ("token", "")  # avg, avgmax, max or map


def _blocks(
    model: Any, view: Callable[..., BlockView], known: set[type], attentions: set[type]
) -> tuple[BlockView, ...]:
    for block in model.blocks:
        attention: Any = getattr(block, "attn", None)
        if forward_class(block) not in known or forward_class(attention) not in attentions:
            raise no_view(block, attention, f"timm's {_either(known)} with {_either(attentions)}")
    return tuple(view(block, f"blocks.{index}") for index, block in enumerate(model.blocks))


def _either(classes: set[type]) -> str:
    return " or ".join(sorted(cls.__name__ for cls in classes))


def _vit_block(block: Any, name: str) -> BlockView:
    attn = block.attn

    def qkv(normed: Tensor, **context: Any) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = _fused(attn, normed)
        return attn.q_norm(q), attn.k_norm(k), v

    return BlockView(
        block=block,
        name=name,
        num_heads=attn.num_heads,
        normalize=block.norm1,
        qkv=qkv,
        proj=lambda attended, normed: block.drop_path1(block.ls1(_projected(attn, attended, normed))),
        residual=lambda x, normed: x,
        view_of=partial(_vit_block, name=name),
        mlp_residual=lambda x: x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))),
        bias=partial(_mask, block),
        select=_without_mask,
        hidden=(attn,),
        dropout=_dropout(attn),
    )


def _eva_block(block: Any, name: str) -> BlockView:
    attn = block.attn
    post_norm = forward_class(block) is EvaBlockPostNorm

    def qkv(normed: Tensor, rope: Tensor | None = None, **context: Any) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = _fused(attn, normed) if attn.qkv is not None else _unfused(attn, normed)
        q, k = attn.q_norm(q), attn.k_norm(k)
        if rope is not None:
            q, k = (rotate(x, rope, attn.rotate_half).type_as(v) for x in (q, k))
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        return q, k, v

    def unrotate(key: Tensor, rope: Tensor | None = None, averaged: bool = False, **context: Any) -> Tensor:
        return key if rope is None else rotate(key, inverse(rope, averaged), attn.rotate_half)

    def proj(attended: Tensor, normed: Tensor) -> Tensor:
        y = _projected(attn, attended, normed)
        return block.drop_path1(block.norm1(y) if post_norm else _scaled(block.gamma_1, y))

    def mlp_residual(x: Tensor) -> Tensor:
        y = block.norm2(block.mlp(x)) if post_norm else _scaled(block.gamma_2, block.mlp(block.norm2(x)))
        return x + block.drop_path2(y)

    def select(context: Mapping[str, Any], kept: Tensor) -> Mapping[str, Any]:
        context, rope = _without_mask(context, kept), context.get("rope")
        return context if rope is None else {**context, "rope": kept_rows(rope, kept, attn.num_prefix_tokens)}

    def average(context: Mapping[str, Any], group: Tensor, size: Tensor) -> Mapping[str, Any]:
        context, rope = _without_mask(context, group), context.get("rope")
        if rope is None:
            return context
        return {**context, "rope": averaged_rows(rope, group, size, attn.num_prefix_tokens), "averaged": True}

    return BlockView(
        block=block,
        name=name,
        num_heads=attn.num_heads,
        normalize=identity if post_norm else block.norm1,
        qkv=qkv,
        proj=proj,
        residual=lambda x, normed: x,
        view_of=partial(_eva_block, name=name),
        mlp_residual=mlp_residual,
        bias=partial(_mask, block),
        select=select,
        hidden=(attn,),
        dropout=_dropout(attn),
        unrotate=unrotate,
        average=average,
    )


def _beit_block(block: Any, name: str) -> BlockView:
    attn = block.attn

    def relative_bias(
        shared_rel_pos_bias: Tensor | None = None, kept: Tensor | None = None, **context: Any
    ) -> Tensor | None:
        bias = shared_rel_pos_bias
        if attn.relative_position_bias_table is not None:
            own = attn.relative_position_bias_table[attn.relative_position_index].permute(2, 0, 1)
            bias = own if bias is None else bias + own
        if bias is None:
            return None
        return bias[None] if kept is None else bias[:, kept[:, :, None], kept[:, None]].transpose(0, 1)

    return BlockView(
        block=block,
        name=name,
        num_heads=attn.num_heads,
        normalize=block.norm1,
        qkv=lambda normed, **context: _fused(attn, normed),
        proj=lambda attended, normed: block.drop_path1(
            _scaled(block.gamma_1, attn.proj_drop(attn.proj(join_heads(attended))))
        ),
        residual=lambda x, normed: x,
        view_of=partial(_beit_block, name=name),
        mlp_residual=lambda x: x + block.drop_path2(_scaled(block.gamma_2, block.mlp(block.norm2(x)))),
        bias=relative_bias,
        select=lambda context, kept: {**context, "kept": kept},  # the block computes the bias, so it selects rows there
        hidden=(attn,),
        dropout=_dropout(attn),
    )


def _fused(attn: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute q, k and v with one projection.

    BEiT and EVA learn no bias for k. They read the weight of the projection and do not call it, so adapters of LoRA on
    it have no effect there, nor here.
    """
    if getattr(attn, "q_bias", None) is None:
        qkv = attn.qkv(normed)
    else:
        bias = torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))
        qkv = attn.qkv(normed) + bias if attn.qkv_bias_separate else F.linear(normed, attn.qkv.weight, bias)
    heads, width = attn.num_heads, qkv.shape[2] // (3 * attn.num_heads)
    q, k, v = qkv.reshape(*qkv.shape[:2], 3, heads, width).permute(2, 0, 3, 1, 4)
    return q, k, v


def _unfused(attn: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute q, k and v with three projections; k and v may have fewer heads than q."""
    kv_heads = getattr(attn, "num_kv_heads", attn.num_heads)
    return (
        split_heads(attn.q_proj(normed), attn.num_heads),
        split_heads(attn.k_proj(normed), kv_heads),
        split_heads(attn.v_proj(normed), kv_heads),
    )


def _projected(attn: Any, attended: Tensor, normed: Tensor) -> Tensor:
    """Normalise, gate and project the output of the heads, as timm's attention modules do."""
    y = attn.norm(join_heads(attended))
    if attn.gate is not None:
        y = y * attn.gate(normed).sigmoid()
    return attn.proj_drop(attn.proj(y))


def _scaled(gamma: Tensor | None, y: Tensor) -> Tensor:
    return y if gamma is None else gamma * y


def _dropout(attn: Any) -> float:
    return attn.attn_drop.p if attn.training else 0.0


def _mask(block: nn.Module, attn_mask: Tensor | None = None, is_causal: bool = False, **context: Any) -> Tensor | None:
    if is_causal:
        raise NotSupported("causal attention (is_causal=True) has no view; pass the mask as attn_mask")
    return None if attn_mask is None else additive(attn_mask, next(block.parameters()).dtype)


def _without_mask(context: Mapping[str, Any], kept: Tensor) -> Mapping[str, Any]:
    refuse_masks(context, "attn_mask", "is_causal")
    return context
