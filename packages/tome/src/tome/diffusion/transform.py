"""`tome.diffusion.apply` and `tome.diffusion.remove`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import nn

from plm_core.errors import InputError, NotSupported
from tome.diffusion.hooks import BLOCK_KINDS, BlockHooks, Hook, block_kind, hooks_for
from tome.diffusion.state import MergingState, Options, Ratio
from tome.warning import warn_user

M = TypeVar("M")

_STATE = "tome_merging"
_NOT_AN_IMAGE = {"AnimateDiffTransformer3D", "PriorTransformer", "TransformerTemporalModel", "UVit2DModel"}
"""Classes whose blocks have tokens that are not an image."""


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

    It supports UNets (Stable Diffusion 1, 2 and XL, video), ControlNets, PixArt, DiT, SD3 and Flux. Blocks that attend
    over time are left alone. With the defaults the result is that of tomesd for the same state of the global generator
    at the first call.

    Call it before ``torch.compile``, and call one model from one thread at a time. Gradient checkpointing of single
    blocks, as diffusers does it, recomputes them with the tokens of their call. Checkpointing of larger or smaller
    parts, and reentrant checkpointing, raise an error in backward.

    Args:
        model: A model of diffusers, a module that contains some, or a pipeline. In a pipeline the UNet or transformer
            and the ControlNets are changed.
        ratio: Share of tokens to merge away, from 0 to 1 - 1 / (sx * sy). (first, last) changes it linearly over the
            denoising. A function gets the progress of the denoising, from 0 to 1, and returns the share. The progress
            is computed from the timesteps.
        max_downsample: The levels to work on: those with latents of at least 1 / max_downsample in height and width.
            None for the highest level that has attention, which is 1 in Stable Diffusion 1 and 2, and 2 in XL.
        sx: Width of a window of tokens, of which one stays.
        sy: Height of a window.
        use_rand: Let a random token of each window stay, the same for the whole batch, instead of the first. As in
            tomesd, an odd batch turns this off (with a warning), since it can hardly hold both halves of
            classifier-free guidance.
        merge_attn: Merge for self-attention, and for joint attention with text.
        merge_crossattn: Merge the queries of cross-attention.
        merge_mlp: Merge for the MLP.
        kv_only: Merge only the keys and values of self-attention, and keep the query of every token.
        reuse_steps: Number of consecutive calls of the model that use one matching. Each image starts with a new one.
            A call starts an image if its timestep is larger than that of the call before; or, as in models of one step,
            if it has the timestep that the last image started with and other latents. With the same latents it is a
            second call for classifier-free guidance.
        share: Let all blocks of a level use the matching of the first of them.
        seed: Source of random choices. An integer seeds a CPU generator, so the choices are the same on every device.
            A generator is used directly, and its state advances. None takes a copy of the device's global generator at
            the first call; the global generator itself does not change.

    Returns:
        The same model. If Token Merging was applied already, the new settings replace the old ones with a warning.

    Raises:
        InputError: An argument is wrong. The model is unchanged.
        NotSupported: The model has no blocks that can merge tokens, or none at ``max_downsample``. The model is
            unchanged.
    """
    options = Options(
        ratio=ratio,
        max_downsample=max_downsample,
        sx=sx,
        sy=sy,
        use_rand=use_rand,
        merge_attn=merge_attn,
        merge_crossattn=merge_crossattn,
        merge_mlp=merge_mlp,
        kv_only=kv_only,
        reuse_steps=reuse_steps,
        share=share,
        seed=seed,
    )
    modules = _modules_of(model)
    _refuse_compiled(modules)
    parts = [part for module in modules for part in _models_in(module)]
    plans = [_plan(part, options) for part in parts]
    if merging_models(model):
        remove(model)
        warn_user("Token Merging was applied to this model already; the new settings replace the old")
    for part, (state, hooks) in zip(parts, plans, strict=True):
        for module, before, after in [(part, state.start_call, None), *hooks]:
            if before is not None:
                state.handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            if after is not None:
                state.handles.append(module.register_forward_hook(after))
        setattr(part, _STATE, state)
    return model


def remove(model: M) -> M:
    """Remove Token Merging from a model. Its outputs are then the same as before `apply`, bit for bit.

    Returns:
        The same model.

    Raises:
        InputError: Token Merging is not applied to it.
    """
    merging = merging_models(model)
    if not merging:
        raise InputError(f"Token Merging is not applied to this {type(model).__name__}")
    for part in merging:
        for handle in getattr(part, _STATE).handles:
            handle.remove()
        delattr(part, _STATE)
    return model


def merging_models(model: object) -> list[nn.Module]:
    """Return the diffusion models in a module or pipeline that merge tokens."""
    return [part for module in _modules_of(model) for part in module.modules() if _STATE in vars(part)]


def settings_of(model: object) -> dict[str, Any]:
    """Return the settings of a model that merges tokens, by the names of the arguments of `apply`.

    The parts of a pipeline have the same ones.
    """
    options: Options = getattr(merging_models(model)[0], _STATE).options
    return {field.name: getattr(options, field.name) for field in fields(options)}


def is_diffusers_model(module: object) -> bool:
    """Return whether a module has diffusers' base class, without importing it, which is slow and could fail."""
    classes = type(module).__mro__
    return any(cls.__name__ == "ModelMixin" and cls.__module__.startswith("diffusers.") for cls in classes)


def _modules_of(model: Any) -> list[nn.Module]:
    """Return the modules of a pipeline that have attention, or a module itself."""
    if isinstance(model, nn.Module):
        return [model]
    parts = (getattr(model, name, None) for name in ("unet", "transformer", "controlnet"))
    modules = [part for part in parts if isinstance(part, nn.Module)]
    if not modules:
        raise NotSupported(f"{type(model).__name__} is neither a diffusion model nor a pipeline with one")
    return modules


def _models_in(module: nn.Module) -> list[nn.Module]:
    """Return the outermost diffusion models in a wrapper that have blocks, or the module itself if it is no wrapper."""
    models = list(_outermost(module)) or [module]
    return [model for model in models if any(_image_blocks(model))] or models


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    if is_diffusers_model(module) and not hasattr(module, "nets"):  # a MultiControlNetModel is a wrapper
        yield module
        return
    for child in module.children():
        yield from _outermost(child)


def _refuse_compiled(modules: list[nn.Module]) -> None:
    """Refuse modules that were compiled: their graphs would ignore hooks that are registered later."""
    for module in modules:
        for part in module.modules():
            if hasattr(part, "_orig_mod") or part._compiled_call_impl is not None:
                name = type(getattr(module, "_orig_mod", module)).__name__
                raise NotSupported(f"{name} is compiled already: apply Token Merging first, then compile")


def _plan(model: nn.Module, options: Options) -> tuple[MergingState, list[Hook]]:
    """Return the state of a model, and the hooks to register on its blocks."""
    name = type(model).__name__
    blocks = [(path, block, _level(model, path)) for path, block in _image_blocks(model)]
    if not blocks:
        raise NotSupported(f"{name} has no block that Token Merging knows; it knows {', '.join(BLOCK_KINDS)}")
    finest = min(level for *_, level in blocks)
    deepest = finest if options.max_downsample is None else options.max_downsample.bit_length() - 1
    if deepest < finest:
        raise NotSupported(
            f"max_downsample is {options.max_downsample}, but the attention of {name} starts at {2**finest}; "
            "leave it out to merge there"
        )
    rotary = any("Flux" in block_kind(block) for _, block, _ in blocks)
    if options.kv_only and rotary:
        raise NotSupported(f"kv_only on {name}: its queries and keys share one table of rotary positions")
    if options.changes and name == "UNetSpatioTemporalConditionModel":
        raise NotSupported(f"a changing ratio on {name}: its timesteps do not tell the progress")
    state = MergingState(
        options=options,
        model=name,
        parameters=tuple(inspect.signature(type(model).forward).parameters)[1:],
        patch_size=getattr(getattr(model, "config", None), "patch_size", None) or 1,
        noise_timestep=1.0 if rotary else 1000.0,
    )
    hooks: list[Hook] = []
    for path, block, level in blocks:
        if level <= deepest:
            hooks += hooks_for(BlockHooks(state, path, level), block, options)
    if not hooks:
        raise NotSupported(f"{name} has none of the parts that are to be merged")
    return state, hooks


def _image_blocks(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the blocks whose tokens are an image, with their dotted paths."""
    if _NOT_AN_IMAGE & {cls.__name__ for cls in type(module).__mro__}:
        return
    if block_kind(module):
        yield path, module
        return
    for name, child in module.named_children():
        if name != "temporal_transformer_blocks":
            yield from _image_blocks(child, f"{path}.{name}" if path else name)


def _level(model: Any, path: str) -> int:
    """Return how often a UNet has halved the latents where a block is; 0 in a transformer."""
    part, index, *_ = [*path.split("."), ""]
    if part == "down_blocks":
        return int(index)
    if part == "up_blocks":
        return len(model.up_blocks) - 1 - int(index)
    return len(model.down_blocks) - 1 if part == "mid_block" else 0
