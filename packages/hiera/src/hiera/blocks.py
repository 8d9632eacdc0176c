"""The block adapter through which model transforms reach into a Hiera.

Its blocks take tokens as [B, U, T, C] (see `hiera.tokens`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from hiera.model import Hiera
from plm_core.blocks import BlockView, ModelView, Tokens


def view(model: Hiera) -> ModelView:
    """Return the view of a Hiera: no special tokens, absolute positions, local attention in the first stages."""
    return ModelView(model, tuple(_block(b, f"blocks.{i}") for i, b in enumerate(model.blocks)), Tokens())


def _block(block: Any, name: str) -> BlockView:
    def output(attended: Tensor, normed: Tensor) -> Tensor:
        return block.attention_branch(block.attn.merge(attended, normed.shape[0], normed.shape[1]))

    return BlockView(
        block=block,
        name=name,
        num_heads=block.attn.num_heads,
        normalize=block.norm1,
        qkv=block.attn.project,
        proj=output,
        residual=block.residual,
        view_of=partial(_block, name=name),
        mlp_residual=block.mlp_residual,
        hidden=(block.attn,),
        local=block.attn.local,
        pools=block.attn.q_stride > 1,
    )
