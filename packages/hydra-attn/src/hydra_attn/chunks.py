"""Chunks of long sequences, whose intermediate results stay in the processor's cache.

There is one chunk on GPUs, whose memory is fast, where gradients are taken, whose graph would grow, and where a model
is compiled or exported, since it may get other numbers of tokens later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

ELEMENTS = 2**19
"""The elements of a tensor in a chunk: 2 MB in float32."""
LEAST_TOKENS = 256
"""Fewer tokens are not worth the calls."""


def chunks(
    k: Tensor, v: Tensor, mask: Tensor | None, weights: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
    """Yield keys and values [B, T, D], and the mask and the weights [B, T] if there are any, in chunks of tokens."""
    for span in _spans(k, v, weights):
        if span is None:
            yield k, v, mask, weights
        else:
            cut_mask, cut_weights = (None if part is None else part[:, span] for part in (mask, weights))
            yield k[:, span], v[:, span], cut_mask, cut_weights


def in_chunks(function: Callable[[Tensor], Tensor], x: Tensor, *others: Tensor) -> Tensor:
    """Return ``function(x)``, of the shape and the dtype of ``x``, for a function of each token of ``x`` [B, T, D].

    Args:
        function: A function that computes with ``others``, too.
        x: Its input.
        *others: Tensors for which gradients may be taken.
    """
    first, *more = _spans(x, *others)
    if first is None:
        return function(x)
    y = torch.empty_like(x)
    for span in (first, *more):
        y[:, span] = function(x[:, span])
    return y


def _spans(x: Tensor, *others: Tensor | None) -> list[slice | None]:
    """Return the spans of the chunks; None for one chunk."""
    tokens = x.shape[1]
    size = max(LEAST_TOKENS, ELEMENTS // max(x.shape[0] * x.shape[-1], 1))
    traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    learned = torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in (x, *others))
    if traced or learned or x.device.type != "cpu" or tokens <= size:
        return [None]
    return [slice(start, start + size) for start in range(0, tokens, size)]
