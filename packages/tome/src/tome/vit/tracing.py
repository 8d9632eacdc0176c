"""Which patches became one token: seen from outside, in one forward pass of a model that merges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plm_core import blocks
from plm_core.errors import InputError
from tome.vit.blocks import Merged, merging_blocks


@dataclass(frozen=True)
class Trace:
    """What merging did in one forward pass. B batch, N original tokens (special ones first), n tokens left."""

    groups: tuple[Tensor, ...]
    """For each block [B, N] int64: the token that each original token is part of after it."""
    sizes: tuple[Tensor, ...]
    """For each block [B, n, 1]: the number of original tokens that each token stands for after it."""
    prefix: int
    """Number of special tokens, which are the first."""
    output: Any
    """What the model answered."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Number of tokens after each block."""
        return tuple(size.shape[1] for size in self.sizes)

    def source(self, block: int = -1) -> Tensor:
        """[B, n, N] of zeros and ones: the original tokens of each token after a block; the paper's source matrix."""
        return F.one_hot(self.groups[block], self.tokens[block]).mT.float()


def trace(model: nn.Module, *inputs: Any, **named: Any) -> Trace:
    """Run a model that merges tokens and see which; without gradient.

    Args:
        model: A model that `tome.apply` was used on, with one vision transformer inside.
        *inputs: For the model's forward.
        **named: The same.

    Returns:
        The groups after each block and the model's answer.

    Raises:
        InputError: Token Merging is not applied, or the call did not pass through every block once.
    """
    merging = merging_blocks(model)
    if not merging:
        raise InputError(f"Token Merging is not applied to this {type(model).__name__}: tome.apply(model, r=...) first")
    seen: list[tuple[Tensor, Merged]] = []
    hooks = [
        block.register_forward_hook(lambda _, args, out: seen.append((args[0], blocks.carried_by(out))))
        for block in merging
    ]
    try:
        with torch.no_grad():
            output = model(*inputs, **named)
    finally:
        for hook in hooks:
            hook.remove()
    if len(seen) != len(merging):
        raise InputError(f"the call went through {len(seen)} blocks that merge tokens, not once through {len(merging)}")
    first = seen[0][0]
    group = torch.arange(first.shape[1], device=first.device).expand(first.shape[0], -1)
    groups, sizes = [], []
    for _, carried in seen:
        if carried.matching is not None:
            group = carried.matching.group.gather(1, group)
        groups.append(group)
        sizes.append(first.new_ones(*first.shape[:2], 1) if carried.size is None else carried.size)
    prefix = blocks.patched_by(merging[0]).prefix  # type: ignore[union-attr]
    return Trace(tuple(groups), tuple(sizes), prefix, output)
