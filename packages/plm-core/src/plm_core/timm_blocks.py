"""Block adapter of timm's VisionTransformer (ViT, DeiT, DINOv2, CLIP and SigLIP towers...)."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.layers import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from plm_core.blocks import BlockView, ModelView, Tokens, original_class
from plm_core.errors import NotSupported


def vision_transformer(model: VisionTransformer) -> ModelView:
    """View of a timm VisionTransformer.

    Raises:
        NotSupported: The blocks are not timm's standard pre-norm ones.
    """
    blocks = []
    for index, block in enumerate(model.blocks):
        if original_class(block) is not Block or type(block.attn) is not Attention:
            raise NotSupported(
                f"blocks of kind {type(block).__name__} with attention {type(getattr(block, 'attn', None)).__name__} "
                "have no view yet; timm's Block with Attention has"
            )
        blocks.append(_block(block, f"blocks.{index}"))
    distill = int(isinstance(model, VisionTransformerDistilled))
    class_tokens = int(model.cls_token is not None)
    registers = model.num_prefix_tokens - class_tokens - distill
    return ModelView(model, tuple(blocks), Tokens(class_tokens, distill, registers))


def _block(block: Any, name: str) -> BlockView:
    attn = block.attn

    def qkv(normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = attn.qkv(normed).unflatten(2, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4)
        return attn.q_norm(q), attn.k_norm(k), v

    def output(attended: Tensor, normed: Tensor) -> Tensor:
        y = attn.norm(attended.transpose(1, 2).flatten(2))
        if getattr(attn, "gate", None) is not None:
            y = y * attn.gate(normed).sigmoid()
        return block.drop_path1(block.ls1(attn.proj_drop(attn.proj(y))))

    return BlockView(
        block=block,
        name=name,
        heads=attn.num_heads,
        normalize=block.norm1,
        qkv=qkv,
        output=output,
        skip=lambda x, normed: x,
        rebind=partial(_block, name=name),
        feed_forward=lambda x: x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))),
    )
