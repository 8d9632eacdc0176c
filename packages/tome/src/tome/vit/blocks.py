"""Token Merging in one block of a vision transformer (ToMe paper, section 3).

The sizes and origins of tokens travel with the tokens from block to block (see `plm_core.blocks.Forward`). The model
holds no state, so calls in several threads, recomputed checkpoints and compiled graphs do not disturb one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from plm_core.blocks import BlockView, attend, attention_kwargs, patched_by
from plm_core.errors import InputError
from tome.matching import Matching, match, take_tokens
from tome.schedule import Cost, Schedule, Target, reachable, solve
from tome.vit.attention import mean_over_heads, proportional
from tome.warning import warn_user

Unmerge = bool | Literal["last"]
"""The blocks that return all tokens, each with the value of its group: none, all, or only the last one."""
Positions = Literal["destination", "mean"]
"""The rotary position of a merged token: that of the token it merged into, or the mean over its patches."""


@lru_cache(maxsize=256)
def _solved(target: Target, tokens: int, prefix: int, depth: int, cost: Cost) -> tuple[int, ...]:
    """Return the schedule for a target, and warn once if it cannot be met."""
    least = reachable(target, tokens, prefix, depth, cost)
    if least > target.share:
        warn_user(
            f"{target.of}={target.share:g} cannot be reached with {tokens} tokens and {depth} blocks: a block merges "
            f"at most half of its tokens, which leaves {target.of}={least:.2g}"
        )
    return solve(target, tokens, prefix, depth, cost)


@dataclass(frozen=True)
class MergeState:
    """The state that travels with the tokens from block to block. N is the number of original tokens, n of those left.

    It is what `plm_core.blocks.Forward` returns beside the tokens.
    """

    r: tuple[int, ...]
    """Tokens to merge away, for each block."""
    size: Tensor | None = None
    """[B, n, 1], the number of patches that each token stands for; None before the first merging."""
    place: Tensor | None = None
    """[B, n] int64, the original token whose position each token has; None before the first merging."""
    group: Tensor | None = None
    """[B, N] int64, the token that each original token is part of; kept only for unmerging and for mean positions."""
    matching: Matching | None = None
    """The matching of the block that the tokens come from; None if that block merged nothing."""


@dataclass(frozen=True)
class MergingBlock:
    """A block that merges tokens between attention and MLP; the ``forward`` of `plm_core.blocks.patch`."""

    index: int
    depth: int
    schedule: Schedule
    prefix: int
    """Number of special tokens, which are first and are never merged."""
    by_place: bool
    """Keep unmerged tokens in order of place, as the original does for models with a class token."""
    prop_attn: bool | Literal["mask", "channel"]
    unmerge: Unmerge
    """The blocks that return all tokens. After one that does, the next block takes one token of each group again."""
    positions: Positions
    """The rotary position of a merged token. "mean" needs `plm_core.blocks.BlockView.average` in rotary blocks."""
    weights: int
    """Number of elements in the block's weight matrices."""

    def __call__(
        self, view: BlockView, x: Tensor, state: MergeState | None, unmerge: bool = False, **context: Any
    ) -> tuple[Tensor, MergeState]:
        """Run the block and merge tokens between attention and MLP.

        Args:
            view: The block taken apart.
            x: [B, n, C], or [B, N, C] from a block that unmerges.
            state: The state from the block before; None in the first block.
            unmerge: Return all tokens in this call only, see `tome.vit.maps`.
            **context: The other arguments of the block's own forward.
        """
        which = unmerge or self.unmerge
        state = self._first_state(x) if state is None else state
        if state.place is not None:
            if which is True:
                x = take_tokens(x, state.place)
            context = self._context(view, context, state, state.place)
        x, metric = self._attend(view, x, state, context)
        x, state = self._merge(x, metric, state, track=bool(which) or self.positions == "mean")
        x = view.mlp_residual(x)
        if (which is True or (which == "last" and self.index == self.depth - 1)) and state.group is not None:
            x = take_tokens(x, state.group)
        return x, state

    def _context(self, view: BlockView, context: Mapping[str, Any], state: MergeState, place: Tensor) -> dict[str, Any]:
        """Return the context for the tokens that are left, with the positions that they now have."""
        if self.positions == "mean" and view.average is not None and not (state.group is None or state.size is None):
            return dict(view.average(context, state.group, state.size))
        return dict(view.select(context, place))

    def _attend(
        self, view: BlockView, x: Tensor, state: MergeState, context: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the tokens after attention, and the metric to match them by: their keys averaged over heads.

        The metric is None if the block merges nothing.
        """
        normed = view.normalize(x)
        q, k, v = view.qkv(normed, **context)
        size = state.size if self.prop_attn else None
        if view.attention is attend:
            attended = proportional(q, k, v, size, view.bias(**context), view.dropout, self.prop_attn)
        else:  # another transform's
            sizes = {} if size is None else {"size": size}
            attended = view.attention(q, k, v, **attention_kwargs(view, **context), **sizes)
        y = view.proj(attended, normed)
        metric = mean_over_heads(view.unrotate(k, **context)) if state.r[self.index] > 0 else None
        return view.residual(x, normed) + y, metric

    def _first_state(self, x: Tensor) -> MergeState:
        if self.index:
            raise InputError(
                f"block {self.index} did not get the tokens that block {self.index - 1} returned: call the model from "
                "its first block on, change nothing between the blocks, and checkpoint with use_reentrant=False"
            )
        return MergeState(self.numbers(x.shape[1], x.shape[-1]))

    def numbers(self, tokens: int, dim: int) -> tuple[int, ...]:
        """Return the tokens to merge away in each block, for a model of ``tokens`` tokens with ``dim`` channels."""
        if not isinstance(self.schedule, Target):
            return self.schedule
        cost = Cost(attention=4 * dim * dim, mlp=max(self.weights - 4 * dim * dim, 0), pair=2 * dim)
        # torch.compile would ignore the cache and warn about it
        solver = solve if torch.compiler.is_compiling() else _solved
        return solver(self.schedule, tokens, self.prefix, self.depth, cost)

    def _merge(self, x: Tensor, metric: Tensor | None, state: MergeState, track: bool) -> tuple[Tensor, MergeState]:
        """Merge tokens by their metric. ``track`` keeps the group of each original token, for unmerging."""
        matching = None if metric is None else match(metric, state.r[self.index], self.prefix, self.by_place)
        if matching is None:
            return x, replace(state, matching=None)
        size = state.size
        if size is None:  # float32 counts exactly up to 2 ** 24 patches; half precision does not
            size = x.new_ones(*x.shape[:2], 1, dtype=torch.promote_types(x.dtype, torch.float32))
        x, size = matching.average(x, size)
        place = matching.kept if state.place is None else state.place.gather(1, matching.kept)
        group = state.group
        if track:
            group = matching.group if group is None else matching.group.gather(1, group)
        return x, MergeState(state.r, size, place, group, matching)


def is_merging(block: nn.Module) -> bool:
    """Return whether the last patch of a block is Token Merging."""
    return isinstance(patched_by(block), MergingBlock)


def merging_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a model that merge tokens, in order."""
    return [module for module in model.modules() if is_merging(module)]
