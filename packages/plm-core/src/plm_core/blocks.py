"""How transforms reach into a model: its blocks taken apart, its special tokens, its positions.

The package that owns a model family declares a `BlockAdapter` whose ``view`` function returns a `ModelView`. A
transform asks `view(model)` and works on what it gets, so it neither guesses attribute names nor imports the family's
package. The pieces of a block are chosen such that `run_block` with plain attention equals the block's own forward
(``plm_core.testing.check_blocks`` holds every adapter to that); a transform swaps one piece: Hydra the attention
itself, Token Merging what happens between attention and MLP.

Shapes: B batch, N tokens, C channels, H heads, D channels per head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from plm_core.errors import NotSupported
from plm_core.hookspecs import BlockAdapter
from plm_core.names import resolve
from plm_core.registry import registry

M = TypeVar("M", bound=nn.Module)
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


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
    heads: int
    normalize: Callable[[Tensor], Tensor]
    """x -> the input of the attention."""
    qkv: Callable[..., tuple[Tensor, Tensor, Tensor]]
    """(normalized x, **context) -> q, k, v, each [G, H, n, D] with q and k normed; G = B, or B times the number of
    windows. The context is what the block's forward gets besides x, such as the ``rope`` of rotary families."""
    output: Callable[[Tensor, Tensor], Tensor]
    """(attended [G, H, n, D], normalized x) -> the attention branch, as it is added to the skip."""
    skip: Callable[[Tensor, Tensor], Tensor]
    """(x, normalized x) -> what the attention branch is added to; x itself unless the block pools or widens."""
    feed_forward: Callable[[Tensor], Tensor]
    """x after attention -> x after the MLP, its skip included."""
    rebind: Callable[[nn.Module], BlockView]
    """The view of another block of the kind, such as a copy of this one."""
    local: bool = False
    """Attention inside windows only: tokens cannot be merged or dropped freely."""
    pools: bool = False
    """The block reduces the number of tokens itself."""


@dataclass(frozen=True)
class ModelView:
    """A model as transforms see it."""

    model: nn.Module
    blocks: tuple[BlockView, ...]
    tokens: Tokens


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention on torch's fused kernel; [G, H, n, D] in and out."""
    return F.scaled_dot_product_attention(q, k, v)


def run_block(view: BlockView, x: Tensor, attention: Attend = attend, **context: Any) -> Tensor:
    """A block's forward from its pieces, with another attention if asked."""
    normed = view.normalize(x)
    y = view.output(attention(*view.qkv(normed, **context)), normed)
    return view.feed_forward(view.skip(x, normed) + y)


def patch(view: BlockView, forward: Callable[..., Tensor]) -> None:
    """Replace a block's forward by ``forward(view, x, **context)``.

    The block's class changes, not the instance: a deep copy of the model works on its own weights, and state dict keys
    stay as they are. Undone by `unpatch`.
    """
    cls = type(view.block)

    def patched(self: nn.Module, x: Tensor, **context: Any) -> Tensor:
        return forward(view.rebind(self), x, **context)

    view.block.__class__ = type(cls.__name__, (cls,), {"forward": patched, "unpatched": cls})


def unpatch(block: nn.Module) -> None:
    """Give a patched block the class back that it had before the last `patch`."""
    block.__class__ = type(block).unpatched  # type: ignore[attr-defined]


def original_class(block: nn.Module) -> type:
    """The class of a block, patched or not."""
    cls = type(block)
    while "unpatched" in vars(cls):
        cls = cls.unpatched  # type: ignore[attr-defined]
    return cls


def view(model: nn.Module) -> ModelView:
    """The view of a model through the adapter declared for its class.

    Raises:
        NotSupported: No adapter for the class, or the adapter declines this instance and says why.
    """
    adapters = registry().for_class(BlockAdapter, model)
    if not adapters:
        raise NotSupported(
            f"no block adapter for {type(model).__module__}.{type(model).__name__}; "
            "the package that owns it can declare one"
        )
    found: ModelView = resolve(adapters[0].view)(model)
    return found
