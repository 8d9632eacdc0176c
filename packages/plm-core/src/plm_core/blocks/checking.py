"""The check of a block adapter: its pieces, put together, must give what each block gives itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plm_core.blocks.lookup import find
from plm_core.blocks.swapping import original_class
from plm_core.blocks.views import BlockView, attend, attention_kwargs, run_block
from plm_core.errors import NotSupported
from plm_core.utils.references import class_paths

TOLERANCE = 1e-5
"""Largest difference between two outputs that should be equal, relative to the largest value above one."""


def check_blocks(model: nn.Module, x: Tensor) -> None:
    """Check that the adapter's pieces, put together, give each block's own output, for all tokens and for a subset.

    Args:
        model: A model in eval mode that has an adapter, or that contains such a model.
        x: An input of the model.

    Raises:
        AssertionError: A block differs. The message names it, and the piece that differs where that can be told.
    """
    for path, view in find(model).items():
        assert view.blocks, f"the adapter of {class_paths(view.model)[0]} shows no blocks"
        calls = _calls(model, view.blocks, x)
        with torch.no_grad():
            for b in view.blocks:
                name = f"{path}.{b.name}" if path else b.name
                assert model.get_submodule(name) is b.block, f"the adapter calls a block {name!r} that is elsewhere"
                assert b.block in calls, f"the model does not call {name}"
                before, context, after = calls[b.block]
                ours = run_block(b, before, **context)
                if not _equal(ours, after):
                    raise AssertionError(
                        f"{difference(ours, after, f'{name} from its pieces and its own forward')}"
                        f"{_first_wrong_piece(b, before, context)}"
                    )
                assert b.pools or before.shape[-2] == after.shape[-2], f"{name} pools, its view says it does not"
                if not (b.local or b.pools) and before.ndim == 3:
                    check_selection(b, before, context, view.tokens.prefix)


def check_selection(view: BlockView, x: Tensor, context: Mapping[str, Any], prefix: int) -> None:
    """Check that a block, run on a subset of tokens with the context selected for them, attends among these tokens.

    Args:
        view: The view of a block without windows.
        x: The tokens of the block, [B, N, C].
        context: The other arguments of its forward.
        prefix: Number of tokens that are not patches. They are always kept.
    """
    first, patches = torch.arange(prefix, device=x.device), torch.arange(prefix, x.shape[1], device=x.device)
    # half of the patches, others in each sample, and not in order
    kept = torch.stack([torch.cat([first, patches.roll(i).flip(0)[: (len(patches) + 1) // 2]]) for i in range(len(x))])
    try:
        selected = view.select(context, kept)
    except NotSupported:
        return
    subset = x.take_along_dim(kept[:, :, None], 1)
    q, k, v = (t.take_along_dim(kept[:, None, :, None], 2) for t in view.qkv(view.normalize(x), **context))
    bias = view.bias(**context)
    if bias is not None:
        bias = bias.take_along_dim(kept[:, None, :, None], 2).take_along_dim(kept[:, None, None, :], 3)
    normed = view.normalize(subset)
    by_hand = view.mlp_residual(view.residual(subset, normed) + view.proj(attend(q, k, v, bias), normed))
    ours = run_block(view, subset, **selected)
    both = f"{view.name} on some tokens with the context that its view selects, and attention among these tokens"
    assert _equal(ours, by_hand), difference(ours, by_hand, both)


def difference(a: Tensor, b: Tensor, both: str) -> str:
    """Say how two tensors differ, that is by shape or by how much."""
    if a.shape != b.shape:
        return f"{both} differ in shape: {list(a.shape)} and {list(b.shape)}"
    return f"{both} differ by up to {(a.double() - b.double()).abs().max().item():.3g}"


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    if a.is_meta or b.is_meta or not a.numel():
        return True
    return bool((a.double() - b.double()).abs().max() <= TOLERANCE * max(1.0, b.double().abs().max().item()))


def _calls(
    model: nn.Module, views: tuple[BlockView, ...], x: Tensor
) -> dict[nn.Module, tuple[Tensor, Mapping[str, Any], Tensor]]:
    """Run the model and return, for each block, its input, the other arguments by name, and its output."""
    calls: dict[nn.Module, tuple[Tensor, Mapping[str, Any], Tensor]] = {}

    def listen(block: nn.Module, args: tuple[Any, ...], context: Mapping[str, Any], y: Tensor) -> None:
        names = tuple(inspect.signature(original_class(block).forward).parameters)[2:]  # without self and x
        calls[block] = args[0], {**context, **dict(zip(names, args[1:], strict=False))}, y

    with ExitStack() as stack, torch.no_grad():
        for b in views:
            stack.enter_context(_hook(b.block, listen))
        model(x)
    return calls


@contextmanager
def _hook(module: nn.Module, hook: Any) -> Iterator[None]:
    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _first_wrong_piece(view: BlockView, x: Tensor, context: Mapping[str, Any]) -> str:
    """Name the first piece whose result the block does not compute itself, as far as its own steps can be observed."""
    own = _steps(view.block, x, context)
    normed = view.normalize(x)
    q, k, v = view.qkv(normed, **context)
    # a wrong tensor may be one that the block has at an earlier step, so the piece before may be what is wrong
    steps = {"normalize": [normed], "normalize or qkv": [q, k, v]}
    bias = view.bias(**context)
    if bias is not None:
        steps["bias"] = [bias]
    branch = view.proj(attend(q, k, v, **attention_kwargs(view, **context)), normed)
    steps |= {"proj": [branch], "proj or residual": [view.residual(x, normed) + branch]}
    for piece, tensors in steps.items():
        if not all(any(_equal(tensor, step) for step in own) for tensor in tensors):
            return f": the first piece that differs is {piece}"
    return ": the piece that differs is mlp_residual"


def _steps(block: nn.Module, x: Tensor, context: Mapping[str, Any]) -> list[Tensor]:
    """Run a block and return every tensor that goes into or comes out of a part of it or its fused attention."""
    tensors: list[Tensor] = []

    def listen(part: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], y: Any) -> None:
        tensors.extend(t for t in (*args, *kwargs.values(), y) if isinstance(t, Tensor))

    attention = F.scaled_dot_product_attention

    def attend_and_listen(*args: Any, **kwargs: Any) -> Tensor:
        tensors.extend(t for t in (*args, *kwargs.values()) if isinstance(t, Tensor))
        return attention(*args, **kwargs)

    with ExitStack() as stack:
        for part in block.modules():
            if part is not block:
                stack.enter_context(_hook(part, listen))
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", attend_and_listen))
        block(x, **context)
    return tensors
