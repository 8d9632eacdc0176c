"""Token Merging in the blocks of a vision transformer (ToMe paper, section 3).

What a block does to the tokens, their sizes and their origins travels with the tokens themselves (see
`plm_core.blocks.Forward`): there is no state on the model, so calls in several threads, recomputed checkpoints and
compiled graphs each see their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from plm_core import blocks
from plm_core.blocks import BlockView, ModelView, Swapped
from plm_core.errors import InputError, NotSupported
from tome.matching import Matching, match, rows
from tome.schedule import Cost, R, Schedule, Target, meet, parse, warn
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
        """The block, with merging between attention and MLP; ``unmerge`` is for this call, see `_WithMaps`."""
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


class _WithMaps(Swapped):
    """Mixed into a model whose blocks merge: what gives maps gives them of all tokens, in their places."""

    def forward_intermediates(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own; blocks give merged tokens back first."""
        own: Any = blocks.original_class(self)  # type: ignore[arg-type]
        return own.forward_intermediates(_Unmerging(self), *args, **kwargs)  # type: ignore[arg-type]


class _Unmerging:
    """A module as its own methods see it, but for blocks that are called with ``unmerge``.

    Neither a copy of the module nor a switch on it: compilers follow this, and other threads do not see it.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return _unmerging(getattr(self._module, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own: Any = blocks.original_class(self._module)
        return own.forward(self, *args, **kwargs)


def _unmerging(found: Any) -> Any:
    """What stands for an attribute in `_Unmerging`; itself where nothing merges."""
    if not isinstance(found, nn.Module) or not merging_blocks(found):
        return found
    if is_merging(found):
        return partial(found, unmerge=True)
    if isinstance(found, nn.ModuleList | nn.Sequential):
        return [_unmerging(child) for child in found]
    return _Unmerging(found)


def is_merging(block: nn.Module) -> bool:
    """Whether the last patch of a block is Token Merging."""
    return isinstance(blocks.patched_by(block), MergingBlock)


def merging_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model that merge tokens, in order."""
    return [module for module in model.modules() if is_merging(module)]


Plan = tuple[ModelView, BlockView, MergingBlock]
"""What one block is to do."""


def apply(
    model: nn.Module,
    r: R | float | None,
    flops: float | None,
    tokens: float | None,
    prop_attn: bool | Literal["mask", "channel"],
    unmerge: bool,
) -> None:
    """The transformers' half of `tome.apply`; nothing is changed unless all of it can be."""
    if not isinstance(prop_attn, bool | str) or prop_attn not in (True, False, "mask", "channel"):
        raise InputError(f"prop_attn is {prop_attn!r}; it is True, False, 'mask' or 'channel'")
    if not isinstance(unmerge, bool):
        raise InputError(f"unmerge is {unmerge!r}; it is True or False")
    plans: list[Plan] = []
    for path, seen in blocks.find(model).items():
        _refuse_windows(seen, path)
        schedule = parse(r, flops, tokens, len(seen.blocks))
        for index, view in enumerate(seen.blocks):
            if blocks.patched_by(view.block) is not None and not is_merging(view.block):
                raise NotSupported(f"block {view.name} is patched by another transform; remove that first")
            what = MergingBlock(
                index=index,
                depth=len(seen.blocks),
                schedule=schedule,
                prefix=seen.tokens.prefix,
                by_place=seen.tokens.prefix > 0,
                prop_attn=prop_attn,
                unmerge=unmerge,
                weights=sum(p.numel() for p in view.block.parameters() if p.ndim == 2),
            )
            plans.append((seen, view, what))
    if remove(model):
        warn("Token Merging was applied to this model already; the new settings replace the old")
    put(plans)


def current(model: nn.Module) -> list[Plan]:
    """What `apply` has made of a model, for `put`."""
    if not merging_blocks(model):
        return []
    views = [(seen, view) for seen in blocks.find(model).values() for view in seen.blocks]
    doing = [(seen, view, blocks.patched_by(view.block)) for seen, view in views]
    return [(seen, view, what) for seen, view, what in doing if isinstance(what, MergingBlock)]


def put(plans: list[Plan]) -> None:
    """Let the blocks of a model that nothing is applied to do as planned."""
    for seen, view, what in plans:
        blocks.patch(view, what)
        if what.index == 0 and hasattr(seen.model, "forward_intermediates"):
            blocks.swap(seen.model, _WithMaps)


def remove(model: nn.Module) -> bool:
    """Undo `apply`; whether there was anything to undo."""
    found = merging_blocks(model)
    for block in found:
        blocks.unpatch(block)
    for module in model.modules():
        if isinstance(module, _WithMaps):
            blocks.swap_back(module)
    return bool(found)


def _refuse_windows(seen: ModelView, path: str) -> None:
    name = type(seen.model).__name__ + (f" ({path})" if path else "")
    for kind in ("local", "pools"):
        found = [view.name for view in seen.blocks if getattr(view, kind)]
        if found:
            why = "attends inside windows, which need every token in its place"
            why = why if kind == "local" else "pools neighbouring tokens, which need every one in its place"
            raise NotSupported(f"Token Merging cannot work on {name}: {found[0]} {why}")
