"""`apply` and `remove` for vision transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from plm_core import blocks
from plm_core.blocks import BlockView, ModelView
from plm_core.errors import InputError, NotSupported
from tome.schedule import R, parse
from tome.vit.blocks import MergingBlock, Positions, Unmerge, is_merging, merging_blocks
from tome.vit.maps import MapsMixin
from tome.warning import warn_user


@dataclass(frozen=True)
class Plan:
    """The plan for one block: what to patch, and with what."""

    model_view: ModelView
    block_view: BlockView
    forward: MergingBlock


def apply(
    model: nn.Module,
    r: R | float | None = None,
    *,
    flops: float | None = None,
    tokens: float | None = None,
    prop_attn: bool | Literal["mask", "channel"] = True,
    unmerge: Unmerge | None = None,
    positions: Positions = "destination",
) -> None:
    """Apply Token Merging to a vision transformer in place; see `tome.apply` for the arguments.

    Either every block of the model is patched or none is.

    Raises:
        NotSupported: The model has no block adapter, or its blocks cannot merge tokens.
        InputError: An argument is wrong.
    """
    if not isinstance(prop_attn, bool | str) or prop_attn not in (True, False, "mask", "channel"):
        raise InputError(f"prop_attn is {prop_attn!r}; it is True, False, 'mask' or 'channel'")
    if not isinstance(unmerge, bool | str | None) or unmerge not in (None, True, False, "last"):
        raise InputError(f"unmerge is {unmerge!r}; it is None, True, False or 'last'")
    if not isinstance(positions, str) or positions not in ("destination", "mean"):
        raise InputError(f"positions is {positions!r}; it is 'destination' or 'mean'")
    plans: list[Plan] = []
    views = blocks.find(model)
    if unmerge is not True:
        _refuse_token_counts(model, views)
    if positions == "mean":
        _refuse_mean_positions(views)
    for path, model_view in views.items():
        _refuse_windows(model_view, path)
        schedule = parse(r, flops, tokens, len(model_view.blocks))
        for index, view in enumerate(model_view.blocks):
            if blocks.patched_by(view.block) is not None and not is_merging(view.block):
                raise NotSupported(f"block {view.name} is patched by another transform; remove that first")
            forward = MergingBlock(
                index=index,
                depth=len(model_view.blocks),
                schedule=schedule,
                prefix=model_view.tokens.prefix,
                by_place=model_view.tokens.prefix > 0,
                prop_attn=prop_attn,
                unmerge=_unmerge(model_view, unmerge),
                positions=positions,
                weights=sum(p.numel() for p in view.block.parameters() if p.ndim == 2),
            )
            plans.append(Plan(model_view, view, forward))
    if remove(model):
        warn_user("Token Merging was applied to this model already; the new settings replace the old")
    install_plans(plans)


def remove(model: nn.Module) -> bool:
    """Remove Token Merging from a model.

    Returns:
        Whether it was applied.
    """
    merging = merging_blocks(model)
    for block in merging:
        blocks.unpatch(block)
    for module in model.modules():
        if isinstance(module, MapsMixin):
            blocks.swap_back(module)
    return bool(merging)


def installed_plans(model: nn.Module) -> list[Plan]:
    """Return the plans that `apply` installed in a model, in the form that `install_plans` takes."""
    if not merging_blocks(model):
        return []
    plans = []
    for model_view in blocks.find(model).values():
        for view in model_view.blocks:
            forward = blocks.patched_by(view.block)
            if isinstance(forward, MergingBlock):
                plans.append(Plan(model_view, view, forward))
    return plans


def install_plans(plans: list[Plan]) -> None:
    """Patch the blocks of a model, to which Token Merging is not applied, as planned."""
    for plan in plans:
        blocks.patch(plan.block_view, plan.forward)
        if plan.forward.index == 0 and hasattr(plan.model_view.model, "forward_intermediates"):
            blocks.swap(plan.model_view.model, MapsMixin)


def _unmerge(model_view: ModelView, asked: Unmerge | None) -> Unmerge:
    """Return the blocks that return all tokens: those asked for, or those that the model needs for its answer."""
    if model_view.returns_maps:
        return True
    if asked is None:
        return "last" if model_view.pools_patches else False
    return asked


def _refuse_token_counts(model: nn.Module, views: Mapping[str, ModelView]) -> None:
    """Refuse a language model that has a place in its text for each patch of an image.

    The block adapter of one that has its own says that it needs every patch.
    """
    for path, module in model.named_modules():
        config = getattr(module, "config", None)
        needs_all = path in views and views[path].returns_maps
        if not needs_all and (hasattr(config, "image_token_id") or hasattr(config, "image_token_index")):
            raise NotSupported(
                f"{type(module).__name__} has a place in its text for each patch of an image: let all blocks return "
                "all tokens with unmerge=True"
            )


def _refuse_mean_positions(views: Mapping[str, ModelView]) -> None:
    """Refuse mean positions where they are impossible, and where they are there already."""
    for path, model_view in views.items():
        kind, name = model_view.tokens.positions, _name(model_view, path)
        if kind == "bias":
            raise NotSupported(
                f"positions='mean' is for rotary positions; {name} has relative position biases, of which a merged "
                "token keeps those of the token that it merged into"
            )
        if kind == "rotary" and any(view.average is None for view in model_view.blocks):
            raise NotSupported(f"positions='mean': the block adapter of {name} cannot average positions")
    if all(model_view.tokens.positions == "absolute" for model_view in views.values()):
        names = ", ".join(_name(model_view, path) for path, model_view in views.items())
        raise NotSupported(
            f"positions='mean' is for rotary positions, and changes nothing here: {names} adds positions to the tokens "
            "before its blocks, so a merged token has their mean already"
        )


def _name(model_view: ModelView, path: str) -> str:
    return type(model_view.model).__name__ + (f" ({path})" if path else "")


def _refuse_windows(model_view: ModelView, path: str) -> None:
    """Refuse a model whose blocks attend inside windows or pool neighbouring tokens."""
    name = _name(model_view, path)
    for view in model_view.blocks:
        if view.local:
            reason = "attends inside windows, which need every token in its place"
        elif view.pools:
            reason = "pools neighbouring tokens, which need every one in its place"
        else:
            continue
        raise NotSupported(f"Token Merging cannot work on {name}: {view.name} {reason}")
