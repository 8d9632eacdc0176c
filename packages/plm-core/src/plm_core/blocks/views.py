"""A block taken apart into pieces, and the block's own forward put together from them again.

Shapes: B batch, N tokens, C channels, H heads, D channels per head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

Attend = Callable[..., Tensor]
"""(q, k, v) -> attended, all [G, H, n, D]; also ``bias=`` and ``dropout=`` where a block has them, see `attend`."""


@dataclass(frozen=True)
class Tokens:
    """The tokens that stand before the patch tokens, in this order, and what marks a patch's place."""

    class_tokens: int = 0
    distill_tokens: int = 0
    register_tokens: int = 0
    positions: str = "absolute"
    """``absolute`` (added to the input), ``rotary`` (passed to each block) or ``bias`` (inside the attention)."""

    @property
    def prefix(self) -> int:
        """Number of tokens that are not patches."""
        return self.class_tokens + self.distill_tokens + self.register_tokens


@dataclass(frozen=True)
class BlockView:
    """One block taken apart. ``x`` is whatever the block's own forward takes, [B, N, C] unless the family says so."""

    block: nn.Module
    name: str
    """Dotted path inside the model, ``blocks.3``."""
    num_heads: int
    normalize: Callable[[Tensor], Tensor]
    """x -> the input of the attention."""
    qkv: Callable[..., tuple[Tensor, Tensor, Tensor]]
    """(normalized x, **context) -> q, k, v, each [G, H, n, D] with q and k normed; G = B, or B times the number of
    windows. The context is what the block's forward gets besides x, such as the ``rope`` of rotary families."""
    proj: Callable[[Tensor, Tensor], Tensor]
    """(attended [G, H, n, D], normalized x) -> the attention branch, as it is added to the skip."""
    residual: Callable[[Tensor, Tensor], Tensor]
    """(x, normalized x) -> what the attention branch is added to; x itself unless the block pools or widens."""
    mlp_residual: Callable[[Tensor], Tensor]
    """x after attention -> x after the MLP, its skip included."""
    view_of: Callable[[nn.Module], BlockView]
    """The view of another block of the kind, such as a copy of this one."""
    local: bool = False
    """Attention inside windows only: tokens cannot be merged or dropped freely."""
    pools: bool = False
    """The block reduces the number of tokens itself."""
    bias: Callable[..., Tensor | None] = lambda **context: None
    """(**context) -> what is added to the attention's logits, [G or 1, H or 1, N, N], such as BEiT's relative
    positions; or None."""
    select: Callable[[Mapping[str, Any], Tensor], Mapping[str, Any]] = lambda context, kept: context
    """(context, kept [B, n]) -> the context for the tokens kept only, by their places among all N; such as the rows of
    ``rope``. Raises NotSupported when the context has what cannot follow, such as a mask."""
    dropout: float = 0.0
    """Rate of attention dropout, 0 in eval mode."""
    unrotate: Callable[..., Tensor] = lambda key, **context: key
    """(k as ``qkv`` gives it, **context) -> k without the rotation of rotary families: what a token is, wherever it
    stands."""


@dataclass(frozen=True)
class ModelView:
    """A model as transforms see it."""

    model: nn.Module
    blocks: tuple[BlockView, ...]
    tokens: Tokens


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Softmax attention on torch's fused kernel; [G, H, n, D] in and out, a bias that broadcasts to [G, H, n, n]."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)


def run_block(view: BlockView, x: Tensor, attention: Attend = attend, **context: Any) -> Tensor:
    """A block's forward from its pieces, with another attention if asked."""
    return view.mlp_residual(_attended(view, x, attention, context))


def _attended(view: BlockView, x: Tensor, attention: Attend, context: Mapping[str, Any]) -> Tensor:
    """Apart from the MLP, so that nothing of the attention is in memory any more when that runs."""
    normed = view.normalize(x)
    y = view.proj(attention(*view.qkv(normed, **context), **attention_kwargs(view, **context)), normed)
    return view.residual(x, normed) + y


def attention_kwargs(view: BlockView, **context: Any) -> dict[str, Any]:
    """What the attention of a block gets besides q, k and v: its bias and its dropout, where it has them."""
    bias = view.bias(**context)
    return ({} if bias is None else {"bias": bias}) | ({"dropout": view.dropout} if view.dropout else {})
