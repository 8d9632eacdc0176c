"""`tome.diffusion.apply` and what undoes it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn

from plm_core.errors import InputError, NotSupported
from tome.diffusion.hooks import KINDS, Hook, Site, hooks, kind
from tome.diffusion.state import Merging, Options, Ratio
from tome.schedule import warn

M = TypeVar("M")

_STATE = "tome_merging"
_NOT_AN_IMAGE = {"AnimateDiffTransformer3D", "PriorTransformer", "TransformerTemporalModel", "UVit2DModel"}


def apply(
    model: M,
    ratio: Ratio = 0.5,
    *,
    max_downsample: int | None = None,
    sx: int = 2,
    sy: int = 2,
    use_rand: bool = True,
    merge_attn: bool = True,
    merge_crossattn: bool = False,
    merge_mlp: bool = False,
    kv_only: bool = False,
    reuse_steps: int = 1,
    share: bool = False,
    seed: int | torch.Generator | None = None,
) -> M:
    """Let the attention of a diffusion model work on fewer tokens, in place (paper, section 4).

    For UNets (Stable Diffusion 1, 2 and XL, video), ControlNets, PixArt, DiT, SD3 and Flux. Blocks that attend over
    time are left alone. With the defaults the result is that of tomesd, for the same state of the global generator at
    the first call. Call it before ``torch.compile``; call one model from one thread at a time. Gradient checkpointing
    of single blocks, as diffusers does it, computes them again with the tokens of their call; of larger or smaller
    parts, or reentrant, is refused in backward.

    Args:
        model: A model of diffusers, or a module with some in it; or a pipeline: then its UNet or transformer, and its
            ControlNets.
        ratio: Share of tokens to merge away, from 0 to 1 - 1 / (sx * sy). (first, last) changes it linearly over the
            denoising, a function of the progress from 0 to 1 as you like; progress goes by timesteps.
        max_downsample: The levels to work on: those with latents of at least 1 / max_downsample in height and width.
            None for the highest level that has attention, which is 1 in Stable Diffusion 1 and 2, and 2 in XL.
        sx: Width of a window of tokens, of which one stays.
        sy: Height of a window.
        use_rand: The token that stays is random, the same for the whole batch, instead of the first. As in tomesd, an
            odd batch turns this off (with a warning): it hardly has both halves of classifier-free guidance.
        merge_attn: Merge for self-attention, and for joint attention with text.
        merge_crossattn: Merge the queries of cross-attention.
        merge_mlp: Merge for the MLP.
        kv_only: Self-attention: merge keys and values only. Every token asks for itself.
        reuse_steps: This many consecutive calls of the model use one matching. A new image starts anew: it has a larger
            timestep than the call before, or the timestep that the last image began with and other latents, as in
            models of one step. With the same latents that is a second call for classifier-free guidance.
        share: Blocks of one level use the matching of the first of them.
        seed: Where random choices come from: a seed for a CPU generator, the same on every device; a generator, which
            is used up; None for a copy of the global generator of the device, made at the first call. The global one
            stays as it is.

    Returns:
        The same model. Applied again, the new settings replace the old ones with a warning.

    Raises:
        InputError: An argument that makes no sense; the model is unchanged.
        NotSupported: No blocks that merging can work on, or none at ``max_downsample``; the model is unchanged.
    """
    options = Options(
        ratio,
        max_downsample,
        sx,
        sy,
        use_rand,
        merge_attn,
        merge_crossattn,
        merge_mlp,
        kv_only,
        reuse_steps,
        share,
        seed,
    )
    given = _given(model)
    _refuse_compiled(given)
    parts = [part for module in given for part in _models(module)]
    plans = [_plan(part, options) for part in parts]
    if undo(model):
        warn("Token Merging was applied to this model already; the new settings replace the old")
    for part, (merging, wanted) in zip(parts, plans, strict=True):
        for module, before, after in [(part, merging.start, None), *wanted]:
            if before is not None:
                merging.handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            if after is not None:
                merging.handles.append(module.register_forward_hook(after))
        setattr(part, _STATE, merging)
    return model


def remove(model: M) -> M:
    """Undo `apply`: the model answers as before, bit for bit.

    Raises:
        InputError: Token Merging is not applied to it.
    """
    if not undo(model):
        raise InputError(f"Token Merging is not applied to this {type(model).__name__}")
    return model


def undo(model: object) -> bool:
    """Undo `apply`; whether there was anything to undo."""
    found = merging_models(model)
    for part in found:
        for handle in getattr(part, _STATE).handles:
            handle.remove()
        delattr(part, _STATE)
    return bool(found)


def merging_models(model: object) -> list[nn.Module]:
    """The models of diffusers in a module or pipeline that merge tokens."""
    return [part for module in _given(model) for part in module.modules() if _STATE in vars(part)]


def _given(model: Any) -> list[nn.Module]:
    """The modules of a pipeline in which attention is, or a module by itself."""
    if isinstance(model, nn.Module):
        return [model]
    named = (getattr(model, name, None) for name in ("unet", "transformer", "controlnet"))
    found = [part for part in named if isinstance(part, nn.Module)]
    if not found:
        raise NotSupported(f"{type(model).__name__} is neither a diffusion model nor a pipeline with one")
    return found


def _models(module: nn.Module) -> list[nn.Module]:
    """The outermost models of diffusers in a wrapper that have blocks; the module itself if it is no wrapper."""
    found = list(_outermost(module)) or [module]
    return [model for model in found if any(_blocks(model))] or found


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    if is_model(module) and not hasattr(module, "nets"):  # which are a MultiControlNetModel's
        yield module
        return
    for child in module.children():
        yield from _outermost(child)


def is_model(module: object) -> bool:
    """Of diffusers' base class, whose import is slow and could fail."""
    classes = type(module).__mro__
    return any(cls.__name__ == "ModelMixin" and cls.__module__.startswith("diffusers.") for cls in classes)


def _refuse_compiled(given: list[nn.Module]) -> None:
    """Graphs of a module without hooks are not made anew for hooks that come later."""
    for module in given:
        for part in module.modules():
            if hasattr(part, "_orig_mod") or part._compiled_call_impl is not None:
                name = type(getattr(module, "_orig_mod", module)).__name__
                raise NotSupported(f"{name} is compiled, and would not notice; apply Token Merging first, then compile")


def _plan(model: nn.Module, options: Options) -> tuple[Merging, list[Hook]]:
    """What `apply` has to hang where."""
    name = type(model).__name__
    blocks = [(path, block, _level(model, path)) for path, block in _blocks(model)]
    if not blocks:
        raise NotSupported(f"{name} has no block that Token Merging knows, which are {', '.join(KINDS)}")
    finest = min(level for *_, level in blocks)
    deepest = finest if options.max_downsample is None else options.max_downsample.bit_length() - 1
    if deepest < finest:
        raise NotSupported(
            f"max_downsample is {options.max_downsample}, but the attention of {name} starts at {2**finest}; "
            "leave it out to merge there"
        )
    rotary = any("Flux" in kind(block) for _, block, _ in blocks)
    if options.kv_only and rotary:
        raise NotSupported(f"kv_only on {name}: its queries and keys share one table of rotary positions")
    if options.changes and name == "UNetSpatioTemporalConditionModel":
        raise NotSupported(f"a changing ratio on {name}: its timesteps do not tell the progress")
    merging = Merging(
        options=options,
        model=name,
        parameters=tuple(inspect.signature(type(model).forward).parameters)[1:],
        patch=getattr(getattr(model, "config", None), "patch_size", None) or 1,
        noise=1.0 if rotary else 1000.0,
    )
    wanted: list[Hook] = []
    for path, block, level in blocks:
        if level <= deepest:
            wanted += hooks(Site(merging, path, level), block, options)
    if not wanted:
        raise NotSupported(f"{name} has nothing of what is to be merged")
    return merging, wanted


def _blocks(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The blocks whose tokens are an image, by their dotted path."""
    if _NOT_AN_IMAGE & {cls.__name__ for cls in type(module).__mro__}:
        return
    if kind(module):
        yield path, module
        return
    for name, child in module.named_children():
        if name != "temporal_transformer_blocks":
            yield from _blocks(child, f"{path}.{name}" if path else name)


def _level(model: Any, path: str) -> int:
    """How often a UNet has halved the latents where the block is; 0 in a transformer."""
    part, index, *_ = [*path.split("."), ""]
    if part == "down_blocks":
        return int(index)
    if part == "up_blocks":
        return len(model.up_blocks) - 1 - int(index)
    return len(model.down_blocks) - 1 if part == "mid_block" else 0
