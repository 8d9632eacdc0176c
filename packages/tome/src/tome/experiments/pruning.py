"""Blocks that drop tokens where Token Merging merges them, for comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plm_core import blocks
from plm_core.blocks import BlockView, attend, attention_kwargs


@dataclass(frozen=True)
class Dropping:
    """A block that drops patch tokens between attention and MLP; the ``forward`` of `plm_core.blocks.patch`."""

    r: int
    """Number of tokens to drop."""
    prefix: int
    """Number of special tokens, which are first and are never dropped."""
    importance: Callable[[Tensor, Tensor], Tensor]
    """(q, k), both [B, H, n, D] -> [B, n]. The patch tokens of least importance are dropped."""

    def __call__(
        self, view: BlockView, x: Tensor, places: Tensor | None, **context: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Run the block; the state that travels with the tokens is their original places [B, n]."""
        if places is not None:
            context = dict(view.select(context, places))
        normed = view.normalize(x)
        q, k, v = view.qkv(normed, **context)
        x = view.residual(x, normed) + view.proj(attend(q, k, v, **attention_kwargs(view, **context)), normed)
        r = min(self.r, (x.shape[1] - self.prefix) // 2)  # at most half, as in Token Merging
        if r > 0:
            kept = self._kept(q, k, x.shape[1] - r)
            x = x.take_along_dim(kept[..., None], 1)
            places = kept if places is None else places.gather(1, kept)
        return view.mlp_residual(x), places

    def _kept(self, q: Tensor, k: Tensor, count: int) -> Tensor:
        """Return the ``count`` tokens to keep, [B, count] in order of place."""
        importance = self.importance(q, k)
        importance[:, : self.prefix] = torch.inf
        return importance.topk(count).indices.sort(1).values


def random_importance(q: Tensor, k: Tensor) -> Tensor:
    """Return a random importance [B, n], drawn from the global generator."""
    return torch.rand(q.shape[0], q.shape[2], device=q.device)


def class_attention(q: Tensor, k: Tensor) -> Tensor:
    """Return the attention [B, n] from the first token, the class token, to each token, averaged over heads."""
    return (q[:, :, :1] @ k.mT * q.shape[-1] ** -0.5).softmax(-1).mean(1)[:, 0]


@contextmanager
def dropping(model: nn.Module, r: int, importance: Callable[[Tensor, Tensor], Tensor]) -> Iterator[nn.Module]:
    """Drop tokens in every block of a model, for the duration of a ``with`` block."""
    model_view = blocks.view(model)
    for view in model_view.blocks:
        blocks.patch(view, Dropping(r, model_view.tokens.prefix, importance))
    try:
        yield model
    finally:
        for view in model_view.blocks:
            blocks.unpatch(view.block)
