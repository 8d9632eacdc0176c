"""The views of a block and of a model: pieces, and `run_block`, which puts the pieces together again.

Shapes: B batch, N tokens, C channels, H heads, D channels per head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from plm_core.errors import InputError

Attend = Callable[..., Tensor]
"""An attention function: (q, k, v) -> attended, all [G, H, n, D]. It also gets ``bias=`` and ``dropout=`` from a block
that has them, see `attend`."""

POSITIONS = ("absolute", "rotary", "bias")
"""The kinds of positions, see `Tokens`."""


@dataclass(frozen=True)
class Tokens:
    """The numbers of special tokens, which stand before the patch tokens in this order, and the kind of positions."""

    class_tokens: int = 0
    distill_tokens: int = 0
    register_tokens: int = 0
    positions: str = "absolute"
    """The kind: ``absolute`` (added to the input), ``rotary`` (passed to each block) or ``bias`` (in the attention)."""

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise InputError(f"positions is {self.positions!r}; {', '.join(POSITIONS)} are allowed")
        for name in ("class_tokens", "distill_tokens", "register_tokens"):
            number = getattr(self, name)
            if not isinstance(number, int) or number < 0:
                raise InputError(f"{name} is {number!r}; a whole number from 0 on is expected")

    @property
    def prefix(self) -> int:
        """The number of tokens that are not patches."""
        return self.class_tokens + self.distill_tokens + self.register_tokens


@dataclass(frozen=True)
class BlockView:
    """The pieces of one block. ``x`` is the input of the block's own forward, [B, N, C] unless the family differs."""

    block: nn.Module
    name: str
    """The dotted path inside the model, such as ``blocks.3``."""
    num_heads: int
    normalize: Callable[[Tensor], Tensor]
    """x -> the input of the attention."""
    qkv: Callable[..., tuple[Tensor, Tensor, Tensor]]
    """(normalized x, **context) -> q, k, v, each [G, H, n, D], with q and k normalized where the block does that. G is
    B, or B times the number of windows. The context holds the other arguments of the block's forward, such as the
    ``rope`` of rotary families."""
    proj: Callable[[Tensor, Tensor], Tensor]
    """(attended [G, H, n, D], normalized x) -> the output of the attention branch, which is added to the residual."""
    residual: Callable[[Tensor, Tensor], Tensor]
    """(x, normalized x) -> the tensor that the branch is added to: x itself, unless the block pools or widens."""
    mlp_residual: Callable[[Tensor], Tensor]
    """x after the attention -> x after the MLP, including the residual connection."""
    view_of: Callable[[nn.Module], BlockView]
    """block -> its view, for another block of the same kind, such as a copy of this one."""
    hidden: tuple[nn.Module, ...] = ()
    """The modules that the pieces take apart and never call, such as the attention. A transform refuses them if they
    have hooks or a forward of their own, which would be left out, or if their class changes after it was applied."""
    local: bool = False
    """Whether the attention stays inside windows. If so, tokens cannot be merged or dropped freely."""
    pools: bool = False
    """Whether the block itself reduces the number of tokens."""
    bias: Callable[..., Tensor | None] = lambda **context: None
    """(**context) -> the bias that is added to the attention logits, [G or 1, H or 1, N, N], such as the relative
    positions of BEiT; or None."""
    select: Callable[[Mapping[str, Any], Tensor], Mapping[str, Any]] = lambda context, kept: context
    """(context, kept [B, n]) -> the context for the kept tokens only, such as their rows of ``rope``. ``kept`` holds
    their indices among all N tokens. It raises NotSupported when something in the context cannot be selected, such as a
    mask."""
    dropout: float = 0.0
    """The rate of attention dropout, 0 in eval mode."""
    unrotate: Callable[..., Tensor] = lambda key, **context: key
    """(k from ``qkv``, **context) -> k without its rotary position, so that it depends on the content of the token
    only."""


@dataclass(frozen=True)
class ModelView:
    """A model as transforms see it."""

    model: nn.Module
    blocks: tuple[BlockView, ...]
    tokens: Tokens
    returns_maps: bool = False
    """Whether the model makes maps of all patches from its tokens, so that they are needed in their places."""


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Compute softmax attention with torch's fused kernel.

    Inputs and output are [G, H, n, D]; the bias broadcasts to [G, H, n, n].
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)


def run_block(view: BlockView, x: Tensor, attention: Attend = attend, **context: Any) -> Tensor:
    """Run a block from its pieces, optionally with another attention function."""
    return view.mlp_residual(_attended(view, x, attention, context))


def _attended(view: BlockView, x: Tensor, attention: Attend, context: Mapping[str, Any]) -> Tensor:
    """Run the part before the MLP. It is a function of its own so that its tensors are freed before the MLP runs."""
    normed = view.normalize(x)
    y = view.proj(attention(*view.qkv(normed, **context), **attention_kwargs(view, **context)), normed)
    return view.residual(x, normed) + y


def attention_kwargs(view: BlockView, **context: Any) -> dict[str, Any]:
    """Return the keyword arguments of a block's attention besides q, k and v: bias and dropout, where it has them."""
    bias = view.bias(**context)
    return ({} if bias is None else {"bias": bias}) | ({"dropout": view.dropout} if view.dropout else {})
