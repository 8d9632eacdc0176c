"""The views of a block and of a model: pieces, and `run_block`, which puts the pieces together again.

Shapes: B batch, N tokens, C channels, H heads, D channels per head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from plm_core.errors import InputError

Attend = Callable[..., Tensor]
"""An attention function: (q, k, v) -> attended, all [G, H, n, D]. It also gets ``bias=`` and ``dropout=`` from a block
that has them, see `attend`. One that a transform puts in place of `attend` also takes ``size=``, [G, n, 1]: how many
tokens each token stands for, if another transform has merged some."""

POSITIONS = ("absolute", "rotary", "bias")
"""The kinds of positions, see `Tokens`."""


@dataclass(frozen=True)
class Tokens:
    """The numbers of special tokens, which stand before the patch tokens in this order, and the kind of positions.

    Attributes:
        class_tokens: Number of class tokens.
        distill_tokens: Number of distillation tokens.
        register_tokens: Number of registers, and of other tokens that are not patches.
        positions: The kind: ``absolute`` (added to the input, or none), ``rotary`` (passed to each block, which rotates
            q and k; then ``unrotate`` undoes it) or ``bias`` (added to the logits of the attention by each block).
    """

    class_tokens: int = 0
    distill_tokens: int = 0
    register_tokens: int = 0
    positions: str = "absolute"

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


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Compute softmax attention with torch's fused kernel.

    Inputs and output are [G, H, n, D]; the bias broadcasts to [G, H, n, n].
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)


@dataclass(frozen=True)
class BlockView:
    """The pieces of one block, which `run_block` puts together again.

    In these terms the block computes, with its other arguments as ``context``::

        normed = normalize(x)
        q, k, v = qkv(normed, **context)
        attended = attend(q, k, v, bias=bias(**context))  # softmax(q k^T / sqrt(D) + bias) v
        x = residual(x, normed) + proj(attended, normed)
        x = mlp_residual(x)

    ``x`` is the input of the block's own forward, [B, N, C] unless the family differs. `check_blocks` compares all of
    it with the block.

    Attributes:
        block: The block itself.
        name: Its dotted path inside the model of the `ModelView`, such as ``blocks.3``.
        num_heads: H, the number of heads of q, k and v.
        normalize: x -> the input of the attention, of the shape of x: the first norm, or x itself in a post-norm block.
        qkv: (normalized x, **context) -> q, k, v, each [G, H, n, D], with q and k normalized and rotated where the
            block does that. k and v of fewer heads are expanded to H. The attention divides by sqrt(D): a block that
            scales in another way multiplies q by sqrt(D) times its own scale. G is B, or B times the number of windows.
        proj: (attended [G, H, n, D], normalized x) -> the output of the attention branch, [B, N, C]: heads joined,
            gated, projected, with dropout, layer scale and drop path. It is added to the residual as it is.
        residual: (x, normalized x) -> the tensor that the branch is added to, without the branch: x itself, unless the
            block pools or widens.
        mlp_residual: x after the attention -> x after the MLP, including the residual connection, the norm and the
            layer scale of the MLP.
        view_of: block -> its view, for another block of the same kind, such as a copy of this one, under the same name.
            ``functools.partial`` of the function that makes views will do.
        hidden: The modules that the pieces take apart and never call: first the attention, then others, if any. A
            transform refuses them if they have hooks or a forward of their own, which would be left out, or if their
            class changes after it was applied.
        local: Whether the attention stays inside windows. If so, tokens cannot be merged or dropped freely.
        pools: Whether the block itself reduces the number of tokens.
        bias: (**context) -> the bias that is added to the attention logits, [G or 1, H or 1, N, N], such as the
            relative positions of BEiT or a mask; or None.
        select: (context, kept [B, n]) -> the context for the kept tokens only, such as their rows of ``rope``. ``kept``
            holds their indices among all N tokens. It raises NotSupported when something in the context cannot be
            selected, such as a mask.
        dropout: The rate of attention dropout, 0 in eval mode.
        unrotate: (k from ``qkv``, **context) -> k without its rotary position, so that it depends on the content of the
            token only. k itself where nothing is rotated. It undoes rotations by averaged rows too, see ``average``.
        average: (context, group [B, N], size [B, n, 1]) -> the context for n tokens, each of which stands for several
            of the N, such as the mean of their rows of ``rope``. ``group`` holds the token that each of the N is part
            of, and ``size`` the number of tokens in each. It raises NotSupported where ``select`` does. None if the
            adapter does not offer it.
        attention: The attention function. An adapter leaves it as it is; a transform may replace it, see `alter`.
    """

    block: nn.Module
    name: str
    num_heads: int
    normalize: Callable[[Tensor], Tensor]
    qkv: Callable[..., tuple[Tensor, Tensor, Tensor]]
    proj: Callable[[Tensor, Tensor], Tensor]
    residual: Callable[[Tensor, Tensor], Tensor]
    mlp_residual: Callable[[Tensor], Tensor]
    view_of: Callable[[nn.Module], BlockView]
    hidden: tuple[nn.Module, ...] = ()
    local: bool = False
    pools: bool = False
    bias: Callable[..., Tensor | None] = lambda **context: None
    select: Callable[[Mapping[str, Any], Tensor], Mapping[str, Any]] = lambda context, kept: context
    dropout: float = 0.0
    unrotate: Callable[..., Tensor] = lambda key, **context: key
    average: Callable[[Mapping[str, Any], Tensor, Tensor], Mapping[str, Any]] | None = None
    attention: Attend = attend


@dataclass(frozen=True)
class ModelView:
    """A model as transforms see it.

    Attributes:
        model: The model that holds the blocks.
        blocks: The views of all its blocks, in the order in which they run.
        tokens: Its special tokens and the kind of its positions.
        returns_maps: Whether the outputs of the model depend on the places of its patches, as maps of all patches do.
            A transform that merges tokens then puts them back.
        pools_patches: Whether the model's answer is pooled over its patch tokens, by an average or an attention
            pooling, so that each patch should count once. A class token needs no such care.
    """

    model: nn.Module
    blocks: tuple[BlockView, ...]
    tokens: Tokens
    returns_maps: bool = False
    pools_patches: bool = False


def part_of(view: ModelView, prefix: str) -> ModelView:
    """Return the view of a part as that of the model that holds it and asks it for maps of all patches.

    Args:
        view: The view of the part.
        prefix: The path of the part in the model with a dot, such as ``backbone.``.
    """

    def named(inner: BlockView) -> BlockView:
        name = f"{prefix}{inner.name}"
        return replace(inner, name=name, view_of=lambda block: replace(inner.view_of(block), name=name))

    return replace(view, blocks=tuple(map(named, view.blocks)), returns_maps=True)


def run_block(view: BlockView, x: Tensor, attention: Attend | None = None, **context: Any) -> Tensor:
    """Run a block from its pieces, optionally with another attention function."""
    return view.mlp_residual(_attended(view, x, attention or view.attention, context))


def _attended(view: BlockView, x: Tensor, attention: Attend, context: Mapping[str, Any]) -> Tensor:
    """Run the part before the MLP. It is a function of its own so that its tensors are freed before the MLP runs."""
    normed = view.normalize(x)
    y = view.proj(attention(*view.qkv(normed, **context), **attention_kwargs(view, **context)), normed)
    return view.residual(x, normed) + y


def attention_kwargs(view: BlockView, **context: Any) -> dict[str, Any]:
    """Return the keyword arguments of a block's attention besides q, k and v: bias and dropout, where it has them."""
    bias = view.bias(**context)
    return ({} if bias is None else {"bias": bias}) | ({"dropout": view.dropout} if view.dropout else {})
