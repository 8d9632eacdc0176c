"""The check of a block adapter: its pieces, put together, must give what each block gives itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from plm_core.blocks.attribution import blame
from plm_core.blocks.facts import check_block, check_heads, check_order, check_positions, check_tokens
from plm_core.blocks.influence import check_answer, check_local, check_maps
from plm_core.blocks.lookup import find
from plm_core.blocks.recording import Call, Input, equal, record
from plm_core.blocks.views import BlockView, ModelView, attend, attention_kwargs, run_block
from plm_core.errors import NotSupported
from plm_core.utils.references import class_paths
from plm_core.utils.text import said


def check_blocks(model: nn.Module, x: Input) -> None:
    """Check that an adapter shows a model as it is.

    The pieces of each block, put together, must give the block's own output, for all tokens and for a subset. All
    blocks are shown, in their order. The special tokens, the positions, the heads, ``local``, ``returns_maps`` and
    ``pools_patches`` are compared with what the model does. On the meta device only shapes are compared.

    A class token that is called a register is noticed if the answer comes from it and not from the patches too. Class
    tokens and distillation tokens are not told apart, nor are registers noticed that are called one of these.

    Args:
        model: A model in eval mode that has an adapter, or that contains such a model.
        x: An input of the model: a batch, or a list of images for a detector.

    Raises:
        AssertionError: A block or a fact differs. The message names it, and the piece that differs where that can be
            told.
        NotSupported: The adapter refuses the model.
        PluginError: The adapter does not return a view.
    """
    for path, view in find(model).items():
        assert view.blocks, f"the adapter of {class_paths(view.model)[0]} shows no blocks"
        with torch.no_grad():
            _check_names(model, path, view)
            run = record(model, view, x)
            for b in view.blocks:
                assert b.block in run.blocks, f"the model does not call {b.name}"
            check_order(view, run)
            for b in view.blocks:
                name = f"{path}.{b.name}" if path else b.name
                _check_pieces(b, name, run.blocks[b.block])
                check_block(b, run.blocks[b.block])
                check_local(b, run.blocks[b.block])
            check_tokens(view, model, x, run)
            check_positions(view, run)
            check_answer(view, model, x, run)
            check_maps(view, model, x, run)
            for b in view.blocks:
                call = run.blocks[b.block]
                if not (b.local or b.pools) and call.x.ndim == 3:
                    check_selection(b, call.x, call.context, view.tokens.prefix)


def _check_names(model: nn.Module, path: str, view: ModelView) -> None:
    """Check that the names of the blocks lead to them."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for b in view.blocks:
        name = f"{path}.{b.name}" if path else b.name
        assert modules.get(name) is b.block, f"the adapter calls a block {name!r} that is elsewhere"


def _check_pieces(view: BlockView, name: str, call: Call) -> None:
    """Check that the pieces of a block give its own output."""
    assert view.block.training or not view.dropout, f"{name}: dropout is {view.dropout}; in eval mode it is 0"
    try:
        check_heads(view, call.x, call.context)
        ours = run_block(view, call.x, **call.context)
    except AssertionError:
        raise
    except Exception as e:
        piece = _failing_piece(view, call) or "run_block"
        raise AssertionError(f"{name}: {piece} fails with {said(e)}") from e
    if not equal(ours, call.y):
        both = f"{name} from its pieces and its own forward"
        raise AssertionError(f"{difference(ours, call.y, both)}{blame(view, call.x, call.context, call.y)}")


def _failing_piece(view: BlockView, call: Call) -> str | None:
    """Return the first piece that raises; None if none does."""
    x, context = call.x, call.context
    results: dict[str, Any] = {}
    steps: dict[str, Callable[[], Any]] = {
        "normalize": lambda: view.normalize(x),
        "qkv": lambda: view.qkv(results["normalize"], **context),
        "bias": lambda: attention_kwargs(view, **context),
        "the attention of what qkv returns": lambda: attend(*results["qkv"], **results["bias"]),
        "proj": lambda: view.proj(results["the attention of what qkv returns"], results["normalize"]),
        "residual": lambda: view.residual(x, results["normalize"]) + results["proj"],
        "mlp_residual": lambda: view.mlp_residual(results["residual"]),
    }
    for piece, step in steps.items():
        try:
            results[piece] = step()
        except Exception:
            return piece
    return None


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
    assert equal(ours, by_hand), difference(ours, by_hand, both)


def difference(a: Tensor, b: Tensor, both: str) -> str:
    """Say how two tensors differ, that is by shape or by how much."""
    if a.shape != b.shape:
        return f"{both} differ in shape: {list(a.shape)} and {list(b.shape)}"
    return f"{both} differ by up to {(a.double() - b.double()).abs().max().item():.3g}"
