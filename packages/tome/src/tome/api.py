"""`tome.apply`, `tome.remove` and `tome.applied`, for vision transformers and for diffusion models."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from plm_core.errors import InputError, NotSupported
from plm_core.transforms import forget, record
from tome.schedule import R

if TYPE_CHECKING:
    from torch import nn

M = TypeVar("M")
NAME = "tome"
"""The name of the transform in the registry."""


def apply(
    model: M,
    r: R | float | None = None,
    *,
    flops: float | None = None,
    tokens: float | None = None,
    prop_attn: bool | Literal["mask", "channel"] = True,
    unmerge: bool | Literal["last"] | None = None,
    positions: Literal["destination", "mean"] = "destination",
    **diffusion_options: Any,
) -> M:
    """Apply Token Merging to a model in place.

    It works on every model with a block adapter (``plm matrix`` lists the families), also inside a wrapper, and
    whichever way the model is called. Methods that return feature maps, such as ``forward_intermediates`` and timm's
    ``features_only``, return them with all tokens in their places. Models and pipelines of diffusers take the arguments
    of `tome.diffusion.apply` instead.

    Several threads may call a vision transformer at the same time, but none should while this function or `remove`
    changes it. What else changes a model works in either order (hooks on blocks and layers, LoRA, accelerate, FSDP2,
    DDP) or raises an error that names it (hooks on an attention, forwards that were replaced, compiled blocks).

    Args:
        model: A vision transformer, or a module that contains some.
        r: The number of tokens to merge away in each block. An integer counts for every block. (r, inflection) merges r
            on average, and rises (1) or falls (-1) linearly from block to block. A list, a range or an array has a
            number for each block. A float below 1 is a share of FLOPs. At most half of the patch tokens merge in one
            block. Class, distillation and register tokens never merge.
        flops: Share of the blocks' multiply-adds to leave, instead of r.
        tokens: Share of the patch tokens to leave after the last block, instead of r.
        prop_attn: Proportional attention: a token counts as many times as it has patches. Turn it off for models
            pretrained as masked autoencoders that were not trained with Token Merging (paper, section 4.1). "mask" and
            "channel" choose an implementation, see `tome.vit.proportional`.
        unmerge: Let blocks return all tokens, each with the value of its group: every block (True) for dense tasks and
            for language models such as LLaVA, the last block only ("last"), or none (False). Over all tokens, an
            average counts each patch once, and so does an attention pooling. None is "last" for models that pool their
            patches (timm's avg, avgmax, max and map, SigLIP, DINOv2 and VideoMAE of transformers), and False for
            others. Backbones of transformers, which return maps, always return all tokens.
        positions: The rotary position of a merged token: that of the token it merged into ("destination"), or the mean
            of the rotations of all its patches ("mean"). With "mean" its logits are the means of those that it would
            have at the places of its patches. Models without rotary positions refuse "mean": where positions are added
            to the tokens before the blocks, merging averages them already.
        **diffusion_options: See `tome.diffusion.apply`.

    Returns:
        The same model. If Token Merging was applied already, the new settings replace the old ones with a warning.

    Raises:
        NotSupported: The model has no block adapter, or its windows need every token in its place. The model is
            unchanged.
        InputError: An argument is wrong. The model is unchanged.

    Example:
        >>> import timm, tome, torch
        >>> model = timm.create_model("vit_tiny_patch16_224").eval()
        >>> model = tome.apply(model, r=13)
        >>> tome.trace(model, torch.rand(1, 3, 224, 224)).tokens
        (184, 171, 158, 145, 132, 119, 106, 93, 80, 67, 54, 41)
    """
    _refuse_unknown(diffusion_options)
    name = type(model).__name__
    if _is_diffusion(model, wrapped=r is flops is tokens is None):
        from tome import diffusion

        default = prop_attn is True and unmerge is None and positions == "destination"
        if not (r is flops is tokens is None and default):
            share = isinstance(r, tuple | list) or (isinstance(r, Real) and not isinstance(r, Integral))
            hint = f"write ratio={r}" if share else "it takes ratio and the other arguments of tome.diffusion.apply"
            raise InputError(f"{name} is a diffusion model; {hint}")
        diffusion.apply(model, **diffusion_options)
        record(model, NAME)
        return model
    if diffusion_options:
        raise InputError(f"{', '.join(diffusion_options)}: only for diffusion models; {name} is none")
    from tome import vit

    options: dict[str, Any] = {"prop_attn": prop_attn, "unmerge": unmerge, "positions": positions}
    try:
        vit.apply(_module(model), r, flops=flops, tokens=tokens, **options)
    except NotSupported as e:
        if not _is_diffusion(model):
            raise
        raise NotSupported(f"{e}; for the diffusion model inside, give ratio in place of r, flops and tokens") from e
    record(model, NAME)
    return model


def remove(model: M) -> M:
    """Remove Token Merging from a model. Its outputs are then the same as before `apply`, bit for bit.

    Returns:
        The same model.

    Raises:
        InputError: Token Merging is not applied to it.

    Example:
        >>> import timm, tome, torch
        >>> model = timm.create_model("vit_tiny_patch16_224").eval()
        >>> x = torch.rand(1, 3, 224, 224)
        >>> before = model(x)
        >>> merged = tome.apply(model, r=13)(x)
        >>> torch.equal(tome.remove(model)(x), before)
        True
    """
    removed = False
    if _is_diffusion(model):
        from tome.diffusion import transform

        if transform.merging_models(model):
            transform.remove(model)
            removed = True
    if not _is_diffusion(model, wrapped=False):
        from tome import vit

        removed |= vit.remove(_module(model))
    forget(model, NAME)
    if not removed:
        raise InputError(f"Token Merging is not applied to this {type(model).__name__}")
    return model


@contextmanager
def applied(model: M, *args: Any, **options: Any) -> Iterator[M]:
    """Apply Token Merging for the duration of a ``with`` block, and restore earlier settings after it.

    Args:
        model: A model that `apply` takes.
        *args: Arguments of `apply`.
        **options: Keyword arguments of `apply`.

    Raises:
        NotSupported: `apply` raises it.
        InputError: `apply` raises it, or Token Merging is applied to this diffusion model already. Its random choices
            could not continue where they were.
    """
    if _is_diffusion(model, wrapped=not args and not {"r", "flops", "tokens"} & options.keys()):
        with _applied_to_diffusion(model, *args, **options):
            yield model
        return
    from tome import vit

    module = _module(model)
    earlier = vit.installed_plans(module)
    vit.remove(module)
    try:
        yield apply(model, *args, **options)
    finally:
        vit.remove(module)  # the user may have removed it inside the block already
        vit.install_plans(earlier)
        (record if earlier else forget)(model, NAME)


@contextmanager
def _applied_to_diffusion(model: M, *args: Any, **options: Any) -> Iterator[None]:
    from tome.diffusion import transform

    if transform.merging_models(model):
        raise InputError(f"Token Merging is applied to this {type(model).__name__} already; remove it first")
    apply(model, *args, **options)
    try:
        yield
    finally:
        if transform.merging_models(model):
            remove(model)


def settings_of(model: object) -> dict[str, Any]:
    """Return the settings of Token Merging in a model: keyword arguments with which `apply` applies it again.

    They are not saved with the weights of a model. So write them beside its weights, for example as JSON.

    Returns:
        For a vision transformer ``prop_attn``, ``unmerge``, ``positions`` and one of ``r``, ``flops`` and ``tokens``,
        in types that JSON has. For a diffusion model all arguments of `tome.diffusion.apply`.

    Raises:
        InputError: Token Merging is not applied, or it is applied to several vision transformers in different ways.

    Example:
        >>> import timm, tome
        >>> settings = tome.settings_of(tome.apply(timm.create_model("test_vit"), r=8))
        >>> settings
        {'r': 8, 'prop_attn': True, 'unmerge': False, 'positions': 'destination'}
        >>> other = tome.apply(timm.create_model("test_vit"), **settings)
    """
    if _is_diffusion(model):
        from tome.diffusion import transform

        if transform.merging_models(model):
            return transform.settings_of(model)
    from tome import vit

    return vit.settings_of(_module(model))


def _module(model: object) -> nn.Module:
    """Return the model, or raise an error if it is not a module."""
    from torch import nn

    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}; it can be a torch.nn.Module or a pipeline of diffusers")
    return model


def _is_diffusion(model: object, wrapped: bool = True) -> bool:
    """Return whether a model is one of diffusers.

    diffusers is not imported to find out: if it is not loaded yet, no such object exists.

    Args:
        model: Any object. If it is a compiled module, the module inside is examined.
        wrapped: Whether a module that contains a diffusion model counts too. It may contain transformers as well.
    """
    if "diffusers" not in sys.modules:
        return False
    model = getattr(model, "_orig_mod", model)
    if any(cls.__module__.startswith("diffusers.") for cls in type(model).__mro__):
        return True
    from torch import nn

    from tome.diffusion.transform import is_diffusers_model

    return wrapped and isinstance(model, nn.Module) and any(is_diffusers_model(part) for part in model.modules())


def _refuse_unknown(options: dict[str, Any]) -> None:
    if options:
        from tome.diffusion.state import Options

        known = [field.name for field in fields(Options)]
        unknown = [name for name in options if name not in known]
        if unknown:
            raise InputError(
                f"{', '.join(unknown)}: no argument of tome.apply. Its arguments are r, flops, tokens, prop_attn, "
                f"unmerge and positions; for diffusion models {', '.join(known)}"
            )
