"""Block adapter for torchvision's VisionTransformer."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models.vision_transformer import EncoderBlock, VisionTransformer

from plm_core.adapters.common import in_projected, join_heads, no_view
from plm_core.blocks import BlockView, ModelView, Tokens, forward_class


def vision_transformer(model: VisionTransformer) -> ModelView:
    """Return the view of a torchvision VisionTransformer.

    Raises:
        NotSupported: The blocks or their attention are not torchvision's own classes.
    """
    blocks = []
    for name, block in model.encoder.layers.named_children():
        if forward_class(block) is not EncoderBlock or forward_class(block.self_attention) is not nn.MultiheadAttention:
            raise no_view(block, block.self_attention, "torchvision's EncoderBlock with torch's MultiheadAttention")
        blocks.append(_block(block, f"encoder.layers.{name}"))
    return ModelView(model, tuple(blocks), Tokens(class_tokens=1))


def _block(block: Any, name: str) -> BlockView:
    attn = block.self_attention

    def qkv(normed: Tensor, **context: Any) -> tuple[Tensor, Tensor, Tensor]:
        return in_projected(attn, normed)

    return BlockView(
        block=block,
        name=name,
        num_heads=attn.num_heads,
        normalize=block.ln_1,
        qkv=qkv,
        proj=lambda attended, normed: block.dropout(attn.out_proj(join_heads(attended))),
        residual=lambda x, normed: x,
        view_of=partial(_block, name=name),
        mlp_residual=lambda x: x + block.mlp(block.ln_2(x)),
        hidden=(attn,),
        dropout=attn.dropout if attn.training else 0.0,
    )
