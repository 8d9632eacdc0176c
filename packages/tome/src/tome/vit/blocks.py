"""Token Merging in one block of a vision transformer (ToMe paper, section 3).

What a block does to the tokens, their sizes and their origins travels with the tokens themselves (see
`plm_core.blocks.Forward`): there is no state on the model, so calls in several threads, recomputed checkpoints and
compiled graphs each see their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from plm_core.blocks import BlockView, patched_by
from plm_core.errors import InputError
from tome.matching import Matching, match, rows
from tome.schedule import Cost, Schedule, Target, meet
from tome.vit.attention import proportional

_met = lru_cache(maxsize=256)(meet)


@dataclass(frozen=True)
class Merged:
    """What tokens carry from block to block."""

    r: tuple[int, ...]
    """Of each block."""
    size: Tensor | None = None
    """[B, n, 1], the number of patches that each token stands for; None before the first merging."""
    place: Tensor | None = None
    """[B, n] int64, the original token whose position each token has; None before the first merging."""
    group: Tensor | None = None
    """[B, N] int64, the token that each original token is part of; kept only for unmerging."""
    matching: Matching | None = None
    """Of the block that the tokens come from; None if it merged nothing."""


@dataclass(frozen=True)
class MergingBlock:
    """What a block does once `apply` has patched it; the ``forward`` of `plm_core.blocks.patch`."""

    index: int
    depth: int
    schedule: Schedule
    prefix: int
    by_place: bool
    """Tokens stay in order of place: with a class token, as the original has it."""
    prop_attn: bool | Literal["mask", "channel"]
    unmerge: bool
    """Blocks give all tokens back, each with what its group has; the next takes one of each group again."""
    weights: int
    """Elements of the block's weight matrices."""

    def __call__(
        self, view: BlockView, x: Tensor, carried: Merged | None, unmerge: bool = False, **context: Any
    ) -> tuple[Tensor, Merged]:
        """The block, with merging between attention and MLP; ``unmerge`` is for this call, see `tome.vit.maps`."""
        unmerge = unmerge or self.unmerge
        merged = self._start(x) if carried is None else carried
        if merged.place is not None:
            if unmerge:
                x = rows(x, merged.place)
            context = dict(view.select(context, merged.place))
        x, metric = self._attend(view, x, merged, context)
        x, merged = self._merge(x, metric, merged, unmerge)
        x = view.feed_forward(x)
        if unmerge and merged.group is not None:
            x = rows(x, merged.group)
        return x, merged

    def _attend(
        self, view: BlockView, x: Tensor, merged: Merged, context: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens after attention, and their keys, averaged over heads, to match them by; None if none are to merge."""
        normed = view.normalize(x)
        q, k, v = view.qkv(normed, **context)
        size = merged.size if self.prop_attn else None
        y = view.output(proportional(q, k, v, size, view.bias(**context), view.dropout, self.prop_attn), normed)
        metric = view.unrotate(k, **context).mean(1) if merged.r[self.index] > 0 else None
        return view.skip(x, normed) + y, metric

    def _start(self, x: Tensor) -> Merged:
        if self.index:
            raise InputError(
                f"block {self.index} got tokens that do not come from block {self.index - 1} as it gave them: call the "
                "model from its first block on, nothing between the blocks; checkpointing needs use_reentrant=False"
            )
        if not isinstance(self.schedule, Target):
            return Merged(self.schedule)
        dim = x.shape[-1]
        cost = Cost(attention=4 * dim * dim, mlp=max(self.weights - 4 * dim * dim, 0), pair=2 * dim)
        find = meet if torch.compiler.is_compiling() else _met  # compilers look through caches, and warn
        return Merged(find(self.schedule, x.shape[1], self.prefix, self.depth, cost))

    def _merge(self, x: Tensor, metric: Tensor | None, merged: Merged, unmerge: bool) -> tuple[Tensor, Merged]:
        matching = None if metric is None else match(metric, merged.r[self.index], self.prefix, self.by_place)
        if matching is None:
            return x, replace(merged, matching=None)
        size = merged.size
        if size is None:  # exact up to 2 ** 24 patches, which half precision is not
            size = x.new_ones(*x.shape[:2], 1, dtype=torch.promote_types(x.dtype, torch.float32))
        x, size = matching.average(x, size)
        place = matching.kept if merged.place is None else merged.place.gather(1, matching.kept)
        group = merged.group
        if unmerge:
            group = matching.group if group is None else matching.group.gather(1, group)
        return x, Merged(merged.r, size, place, group, matching)


def is_merging(block: nn.Module) -> bool:
    """Whether the last patch of a block is Token Merging."""
    return isinstance(patched_by(block), MergingBlock)


def merging_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model that merge tokens, in order."""
    return [module for module in model.modules() if is_merging(module)]
