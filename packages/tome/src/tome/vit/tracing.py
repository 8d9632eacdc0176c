"""A trace of one forward pass (which patches became one token), and the settings that were applied."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plm_core import blocks
from plm_core.errors import InputError
from tome.schedule import Schedule, Target
from tome.vit.blocks import MergeState, MergingBlock, merging_blocks


@dataclass(frozen=True)
class Trace:
    """The groups of tokens after each block in one forward pass.

    B is the batch size, N the number of original tokens (special ones first), n the number of tokens left.
    """

    groups: tuple[Tensor, ...]
    """For each block, [B, N] int64: the token that each original token is part of after the block."""
    sizes: tuple[Tensor, ...]
    """For each block, [B, n, 1]: the number of original tokens that each token stands for after the block."""
    prefix: int
    """Number of special tokens, which are first."""
    output: Any
    """The output of the model."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Number of tokens after each block."""
        return tuple(size.shape[1] for size in self.sizes)

    def source(self, block: int = -1) -> Tensor:
        """Return the paper's source matrix: [B, n, N], 1 where an original token is part of a token after ``block``."""
        return F.one_hot(self.groups[block], self.tokens[block]).transpose(-2, -1).float()


def trace(model: nn.Module, *args: Any, **kwargs: Any) -> Trace:
    """Run a model that merges tokens, without gradient, and record which tokens merge.

    Only the calls of the calling thread are recorded; other threads may call the model at the same time.

    Args:
        model: A model to which `tome.apply` was applied, with one vision transformer inside.
        *args: Arguments of the model's forward.
        **kwargs: Keyword arguments of the model's forward.

    Returns:
        The groups after each block, and the output of the model.

    Raises:
        InputError: Token Merging is not applied, or the call did not run every block exactly once.
    """
    merging = _applied(model)
    calls: list[tuple[Tensor, MergeState]] = []
    thread = get_ident()

    def listen(block: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        if get_ident() == thread:
            calls.append((args[0], blocks.state_of(out)))

    hooks = [block.register_forward_hook(listen) for block in merging]
    try:
        with torch.no_grad():
            output = model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    if len(calls) != len(merging):
        raise InputError(f"the call ran {len(calls)} merging blocks; each of the {len(merging)} must run once")
    first = calls[0][0]
    group = torch.arange(first.shape[1], device=first.device).expand(first.shape[0], -1)
    groups, sizes = [], []
    for _, state in calls:
        if state.matching is not None:
            group = state.matching.group.gather(1, group)
        groups.append(group)
        sizes.append(first.new_ones(*first.shape[:2], 1) if state.size is None else state.size)
    prefix = blocks.patched_by(merging[0]).prefix  # type: ignore[union-attr]
    return Trace(tuple(groups), tuple(sizes), prefix, output)


def schedule_of(model: nn.Module, *args: Any, **kwargs: Any) -> Schedule:
    """Return the number of tokens that each block of a model merges away.

    Args:
        model: A model to which `tome.apply` was applied, with one vision transformer inside.
        *args: Arguments of the model's forward. Without them nothing is run, and the schedule is returned as it was
            asked for: at most these numbers, or the `tome.schedule.Target` of ``flops`` and ``tokens``, which becomes
            numbers when the number of tokens is known.
        **kwargs: Keyword arguments of the model's forward.

    Raises:
        InputError: Token Merging is not applied, or `trace` raises it.
    """
    if args or kwargs:
        traced = trace(model, *args, **kwargs)
        counts = (traced.groups[0].shape[1], *traced.tokens)
        return tuple(before - after for before, after in itertools.pairwise(counts))
    schedule: Schedule = blocks.patched_by(_applied(model)[0]).schedule  # type: ignore[union-attr]
    return schedule


def settings_of(model: nn.Module) -> dict[str, Any]:
    """Return the settings of Token Merging in a vision transformer; see `tome.settings_of`."""
    forwards: list[Any] = [blocks.patched_by(block) for block in _applied(model)]
    found = [_settings(forward) for forward in forwards if forward.index == 0]
    if any(settings != found[0] for settings in found):
        raise InputError(
            f"this {type(model).__name__} holds {len(found)} vision transformers with different settings: give one of "
            "them"
        )
    return found[0]


def _settings(forward: MergingBlock) -> dict[str, Any]:
    if isinstance(forward.schedule, Target):
        work: dict[str, Any] = {forward.schedule.of: forward.schedule.share}
    else:
        numbers = list(forward.schedule)
        work = {"r": numbers[0] if len(set(numbers)) == 1 else numbers}
    return {**work, "prop_attn": forward.prop_attn, "unmerge": forward.unmerge, "positions": forward.positions}


def _applied(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a model that merge tokens, or raise an error if there are none."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}; it can be a torch.nn.Module")
    merging = merging_blocks(model)
    if not merging:
        raise InputError(f"Token Merging is not applied to this {type(model).__name__}: tome.apply(model, r=...) first")
    return merging
