"""Block adapter for the image towers of open_clip that are not timm's: open_clip.transformer.VisionTransformer.

The blocks are told by the names of their classes, and nothing of open_clip is imported: anyone who asks for a view has
imported it already, to make the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from plm_core.adapters.common import in_projected, join_heads, no_view, refuse_masks, with_dimensions
from plm_core.blocks import BlockView, ModelView, Tokens, forward_class
from plm_core.errors import NotSupported

MODULE = "open_clip.transformer"


def vision_transformer(model: Any) -> ModelView:
    """Return the view of an open_clip VisionTransformer.

    Its average and its attention pooling (CoCa) count patches.

    Raises:
        NotSupported: The blocks are not open_clip's standard blocks, or their tokens do not have the batch first.
    """
    blocks = []
    for name, block in model.transformer.resblocks.named_children():
        own = forward_class(block)
        attn: Any = getattr(block, "attn", None)
        standard = (own.__module__, own.__qualname__) == (MODULE, "ResidualAttentionBlock")
        if not standard or forward_class(attn) is not nn.MultiheadAttention:
            raise no_view(block, attn, "open_clip's ResidualAttentionBlock with torch's MultiheadAttention")
        if not attn.batch_first:
            raise NotSupported("the tokens of this open_clip model have the batch second; batch_first=True is needed")
        blocks.append(_block(block, f"transformer.resblocks.{name}"))
    pools_patches = model.attn_pool is not None or model.pool_type == "avg"
    return ModelView(model, tuple(blocks), Tokens(class_tokens=1), pools_patches=pools_patches)


def embedding(model: Any, x: Tensor) -> Tensor:
    """Return the output of the tower: its pooled tokens, projected to where images and texts are compared."""
    output = model(x)
    pooled: Tensor = output[0] if isinstance(output, tuple) else output  # with the tokens, if output_tokens
    return pooled


def _block(block: Any, name: str) -> BlockView:
    attn = block.attn

    def qkv(normed: Tensor, **context: Any) -> tuple[Tensor, Tensor, Tensor]:
        if context.get("k_x") is not None or context.get("v_x") is not None:
            raise NotSupported(f"{name} attends to other tokens than its own; such a block has no view")
        return in_projected(attn, normed)

    return BlockView(
        block=block,
        name=name,
        num_heads=attn.num_heads,
        normalize=block.ln_1,
        qkv=qkv,
        proj=lambda attended, normed: block.ls_1(attn.out_proj(join_heads(attended))),
        residual=lambda x, normed: x,
        view_of=partial(_block, name=name),
        mlp_residual=lambda x: x + block.ls_2(block.mlp(block.ln_2(x))),
        bias=partial(_mask, attn),
        select=_select,
        hidden=(attn,),
        dropout=attn.dropout if attn.training else 0.0,
    )


def _mask(attn: Any, attn_mask: Tensor | None = None, **context: Any) -> Tensor | None:
    """Return the mask, [N, N] or [B * H, N, N], as a bias. The block adds a boolean one as zeros and ones."""
    if attn_mask is None:
        return None
    mask = attn_mask.to(attn.in_proj_weight.dtype)
    return with_dimensions(mask.unflatten(0, (-1, attn.num_heads)) if mask.ndim == 3 else mask)


def _select(context: Mapping[str, Any], kept: Tensor) -> Mapping[str, Any]:
    refuse_masks(context, "attn_mask")
    return context
