"""The influence of tokens, held against the view: on other tokens of a block, and on the answer of the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from plm_core.blocks.recording import Call, Input, Run, equal, hooked, is_training, record
from plm_core.blocks.views import BlockView, ModelView, run_block


def check_local(view: BlockView, call: Call) -> None:
    """Check whether a token reaches all tokens of its block, or only those of its window, which is what ``local`` says.

    Every token attends equally to all that its attention sees for it, so that none is too weak to be noticed. The
    attention of a block with a mask says nothing, since a mask has its own reasons to keep tokens apart.

    Raises:
        AssertionError: The view says otherwise.
    """
    x = call.x
    number = math.prod(x.shape[1:-1])
    if x.is_meta or number < 2 or is_training(view.block):
        return
    masked = []

    def average(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
        masked.append(bias is not None and bool((bias < -1e4).any()))
        return v.mean(2, keepdim=True).expand(-1, -1, q.shape[2], -1)

    other = x.flatten(1, -2).clone()
    other[:, -1] = other[:, -1] + _noise(other[:, -1])
    y, changed = (run_block(view, t, attention=average, **call.context) for t in (x, other.view_as(x)))
    if any(masked):
        return
    reached = (y != changed).flatten(1, -2).any(-1).any(0)
    share = f"{int(reached.sum())} of the {len(reached)} tokens that {view.name} returns"
    if view.local:
        assert not reached.all(), (
            f"local of {view.name} is True, but its last token reaches {share} (give an input of several windows, if "
            "this one fits into one)"
        )
    else:
        assert reached.all(), f"local of {view.name} is False, but its last token reaches only {share}"


def check_answer(view: ModelView, model: nn.Module, x: Input, run: Run) -> None:
    """Check what the answer of the model, one vector for each image, is made of.

    If it comes from the patches, ``pools_patches`` must say so. That may also be said of a model whose answer is made
    outside of it. If it comes from a special token and not from the patches, that is a class token or a distillation
    token. An answer that comes from both, as that of some DINOv2, does not tell a class token from a pooling over all
    tokens. Outputs of other forms than [B, D] say nothing.

    Raises:
        AssertionError: The view says otherwise.
    """
    last, tokens = view.blocks[-1], view.tokens
    y = run.blocks[last.block].y
    if not _tells(view, model, run):
        return
    first = tokens.class_tokens + tokens.distill_tokens

    def reads(start: int, stop: int) -> list[bool]:
        def disturb(part: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], y: Tensor) -> Tensor:
            return torch.cat([y[:, :start], y[:, start:stop] + _noise(y[:, start:stop]), y[:, stop:]], 1)

        return [not torch.equal(a, b) for a, b in _changes(view, model, x, run, disturb) if a.ndim == 2]

    of_patches = reads(tokens.prefix, y.shape[1])
    assert view.pools_patches or not any(of_patches), (
        f"pools_patches is False, but the answer of {type(view.model).__name__} depends on the patches that leave "
        f"{last.name}"
    )
    of_registers = reads(first, tokens.prefix) if tokens.register_tokens else []
    for from_register, from_patch in zip(of_registers, of_patches, strict=False):
        assert from_patch or not from_register, (
            f"the view has {tokens.register_tokens} registers ({tokens}), but the answer of "
            f"{type(view.model).__name__} comes from one of them and not from the patches: that is a class token"
        )


def check_maps(view: ModelView, model: nn.Module, x: Input, run: Run) -> None:
    """Check whether the outputs of the model depend on the places of the patches, which is what ``returns_maps`` says.

    The patches that leave the last block change places for it. Outputs that are tokens themselves say nothing.

    Raises:
        AssertionError: The view says otherwise.
    """
    last, prefix = view.blocks[-1], view.tokens.prefix
    if not _tells(view, model, run):
        return

    def shuffle(part: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], y: Tensor) -> Tensor:
        return torch.cat([y[:, :prefix], y[:, prefix:].roll(1, 1)], 1)

    number = run.blocks[last.block].y.shape[1]
    pairs = _changes(view, model, x, run, shuffle)
    told = [equal(a, b) for a, b in pairs if not (a.ndim == 3 and a.shape[1] in (number, number - prefix))]
    if told:
        depends = not all(told)
        assert view.returns_maps == depends, (
            f"returns_maps is {view.returns_maps}, but the outputs of {type(view.model).__name__} "
            f"{'depend' if depends else 'do not depend'} on the places of the patches"
        )


def _tells(view: ModelView, model: nn.Module, run: Run) -> bool:
    """Return whether the outputs of the model tell what the tokens are that leave its last block."""
    y = run.blocks[view.blocks[-1].block].y
    if run.model is None or y.ndim != 3 or y.is_meta or is_training(model):
        return False
    return not any(b.pools or b.local for b in view.blocks)


def _changes(
    view: ModelView, model: nn.Module, x: Input, run: Run, change: Callable[..., Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Return each tensor in the output of the model, as it is and with a change of what its last block returns."""
    with hooked(view.blocks[-1].block, change, first=True):  # before hooks of transformers, which record hidden states
        changed = record(model, view, x)
    assert run.model is not None
    assert changed.model is not None
    return list(zip(_tensors(run.model.y), _tensors(changed.model.y), strict=True))


def _noise(like: Tensor) -> Tensor:
    """Return random numbers that are as large as a tensor, the same ones at each call."""
    noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(0))
    return noise.to(like) * like.abs().amax().clamp(min=1.0)


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield the tensors in the output of a model."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)
