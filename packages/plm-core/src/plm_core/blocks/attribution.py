"""Which piece of a block's view differs from the block, as far as that can be told from what the block does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from plm_core.blocks.recording import Steps, equal, steps_of
from plm_core.blocks.views import BlockView, attend, attention_kwargs

PIECES = ("normalize", "qkv", "bias", "proj", "residual", "mlp_residual")


@torch.no_grad()
def blame(view: BlockView, x: Tensor, context: Mapping[str, Any], y: Tensor) -> str:
    """Say which piece of a view differs, or between which pieces it cannot be told.

    A piece is cleared only by evidence: its result, made from tensors that the block has itself, is a tensor that the
    block has itself.

    Args:
        view: A view whose pieces, put together, do not give what the block gives.
        x: The input of the block.
        context: The other arguments of its forward.
        y: Its output.
    """
    own = steps_of(view.block, lambda: view.block(x, **context))
    cleared = set()
    for clear in (_by_attention, _by_tokens):
        with suppress(RuntimeError, IndexError, TypeError, ValueError, AttributeError):  # of shapes that do not fit
            for pieces in clear(view, x, context, y, own):
                cleared |= pieces
    left = [piece for piece in PIECES if piece not in cleared]
    if len(left) == 1:
        return f": the piece that differs is {left[0]}"
    return f": which piece differs cannot be told; it is one of {', '.join(left or PIECES)}"


def _by_attention(view: BlockView, x: Tensor, context: Mapping[str, Any], y: Tensor, own: Steps) -> Iterator[set[str]]:
    """Yield the pieces that are cleared by the input of the attention, and by the tensors that attend."""
    normed = view.normalize(x)
    true = _input_of_attention(view, x, own)
    if normed.shape == x.shape and (
        equal(normed, true) if true is not None else own.has(normed) and not equal(normed, x)
    ):
        yield {"normalize"}
    bias = view.bias(**context)
    if len(own.attention) == 1:
        tensors, mask, _ = own.attention[0]
        if _same(view.qkv(normed if true is None else true, **context), tensors):
            yield {"qkv"} if true is not None else {"normalize", "qkv"}
        if (bias is None and mask is None) or (bias is not None and mask is not None and _same([bias], [mask])):
            yield {"bias"}
    attended = attend(*view.qkv(normed, **context), **attention_kwargs(view, **context))
    if own.has(attended.transpose(1, 2).flatten(2)):
        yield {"normalize", "qkv", "bias"}


def _by_tokens(view: BlockView, x: Tensor, context: Mapping[str, Any], y: Tensor, own: Steps) -> Iterator[set[str]]:
    """Yield the pieces that are cleared by the tokens between the attention and the MLP, where a part gets them."""
    normed = view.normalize(x)
    if own.has(between := _tokens(view, x, normed, context)) and not equal(between, x):
        yield {"normalize", "qkv", "bias", "proj", "residual"}
        return
    candidates = [t for t in own.tensors if t.shape[-1:] == x.shape[-1:] and t.ndim == x.ndim]
    given = [t for t in candidates if _gives(view, t, y)]
    if not given:
        return
    between = given[0]
    yield {"mlp_residual"}
    true = _input_of_attention(view, x, own)
    if true is not None and equal(_tokens(view, x, true, context), between):
        yield {"qkv", "bias", "proj", "residual"}
    branch = between - view.residual(x, normed if true is None else true)
    if own.has(branch) and not equal(branch, between):
        yield {"residual"}
    if true is not None and (attended := _attended(view, true, context, own)) is not None:
        branch = view.proj(attended, true)
        if equal(view.residual(x, true) + branch, between):
            yield {"proj", "residual"}
        elif equal(between - branch, x):
            yield {"proj"}


def _attended(view: BlockView, normed: Tensor, context: Mapping[str, Any], own: Steps) -> Tensor | None:
    """Return what the attention of the block gives to its heads; None where that cannot be seen."""
    if len(own.attention) == 1:
        return own.attention[0][2]
    attended = attend(*view.qkv(normed, **context), **attention_kwargs(view, **context))
    return attended if own.has(attended.transpose(1, 2).flatten(2)) else None


def _tokens(view: BlockView, x: Tensor, normed: Tensor, context: Mapping[str, Any]) -> Tensor:
    """Return the tokens after the attention, as the pieces make them from a normalized input."""
    attended = attend(*view.qkv(normed, **context), **attention_kwargs(view, **context))
    return view.residual(x, normed) + view.proj(attended, normed)


def _gives(view: BlockView, tokens: Tensor, y: Tensor) -> bool:
    """Return whether the piece for the MLP makes the output of the block from tokens that the block has."""
    return not equal(tokens, y) and equal(view.mlp_residual(tokens), y)


def _input_of_attention(view: BlockView, x: Tensor, own: Steps) -> Tensor | None:
    """Return what the block gives the first of its hidden modules, which is its attention."""
    given = own.inputs.get(view.hidden[0], []) if view.hidden else []
    return next((t for t in given if t.shape == x.shape), None)


def _same(ours: Any, theirs: Any) -> bool:
    """Return whether tensors are the same, also where one is expanded."""
    return all(
        equal(*torch.broadcast_tensors(a.to(b.dtype) if b.is_floating_point() else a, b))
        for a, b in zip(ours, theirs, strict=True)
    )
