"""`apply` and `remove` for vision transformers, and the plan that each block is given."""

from __future__ import annotations

from typing import Literal

from torch import nn

from plm_core import blocks
from plm_core.blocks import BlockView, ModelView
from plm_core.errors import InputError, NotSupported
from tome.schedule import R, parse, warn
from tome.vit.blocks import MergingBlock, is_merging, merging_blocks
from tome.vit.maps import WithMaps

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
            blocks.swap(seen.model, WithMaps)


def remove(model: nn.Module) -> bool:
    """Undo `apply`; whether there was anything to undo."""
    found = merging_blocks(model)
    for block in found:
        blocks.unpatch(block)
    for module in model.modules():
        if isinstance(module, WithMaps):
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
