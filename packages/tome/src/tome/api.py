"""`tome.apply` and what undoes it, for transformers and for diffusion models."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from plm_core.errors import InputError
from tome.schedule import R

if TYPE_CHECKING:
    from torch import nn

M = TypeVar("M")


def apply(
    model: M,
    r: R | float | None = None,
    *,
    flops: float | None = None,
    tokens: float | None = None,
    prop_attn: bool | Literal["mask", "channel"] = True,
    unmerge: bool = False,
    **diffusion: Any,
) -> M:
    """Let a model merge tokens, in place.

    Works on every model with a block adapter (``plm matrix`` lists the families), inside any wrapper, and through every
    way into it. ``forward_intermediates``, ``features_only`` and timm's other ways to maps give them of all tokens, in
    their places. Diffusion models and pipelines of diffusers take the arguments of `tome.diffusion.apply` instead.

    Args:
        model: A vision transformer, or a module that contains some.
        r: Tokens to merge away: in each block; (r, inflection) for r on average, rising (1) or falling (-1) linearly;
            or a list, a range or an array with a number for each block. A float below 1 is a share of FLOPs. At most
            half of the patch tokens merge in one block; class, distillation and register tokens never do.
        flops: Instead of r: the share of the blocks' multiply-adds to leave.
        tokens: Instead of r: the share of the patch tokens to leave after the last block.
        prop_attn: Let tokens count in attention as many times as they have patches. Turn it off for models pretrained
            as masked autoencoders that were not trained with Token Merging (paper, section 4.1). "mask" and "channel"
            choose how, see `tome.vit.attention.proportional`.
        unmerge: Blocks give all tokens back, each with what its group has: for dense tasks, and for poolings to weigh
            tokens by their size (an average over them is then one over patches).
        **diffusion: See `tome.diffusion.apply`.

    Returns:
        The same model. Applied again, the new settings replace the old ones with a warning.

    Raises:
        NotSupported: No block adapter for the model, or windows in which tokens need their places. It is unchanged.
        InputError: An argument that makes no sense; the model is unchanged.
    """
    _refuse_unknown(diffusion)
    name = type(model).__name__
    if _is_diffusion(model, wrapped=r is flops is tokens is None):
        from tome import diffusion as theirs

        if not r is flops is tokens is None or prop_attn is not True or unmerge is not False:
            share = isinstance(r, tuple | list) or (isinstance(r, Real) and not isinstance(r, Integral))
            hint = f"write ratio={r}" if share else "it takes ratio and the arguments beside it"
            raise InputError(f"{name} is a diffusion model; {hint}")
        return theirs.apply(model, **diffusion)
    if diffusion:
        raise InputError(f"{', '.join(diffusion)}: for diffusion models only, which {name} is not")
    from tome import vit

    vit.apply(_module(model), r, flops, tokens, prop_attn, unmerge)
    return model


def remove(model: M) -> M:
    """Undo `apply`: the model answers as before, bit for bit.

    Raises:
        InputError: Token Merging is not applied to it.
    """
    done = False
    if _is_diffusion(model):
        from tome.diffusion import transform

        done = transform.undo(model)
    if not _is_diffusion(model, wrapped=False):
        from tome import vit

        done |= vit.remove(_module(model))
    if not done:
        raise InputError(f"Token Merging is not applied to this {type(model).__name__}")
    return model


@contextmanager
def applied(model: M, *args: Any, **options: Any) -> Iterator[M]:
    """`apply` for the length of a ``with`` block; what was applied before it is applied again after it.

    Raises:
        NotSupported: As `apply`.
        InputError: As `apply`; or Token Merging is applied to this diffusion model already, whose random choices could
            not go on where they were.
    """
    if _is_diffusion(model, wrapped=not args and not {"r", "flops", "tokens"} & options.keys()):
        with _applied_to_diffusion(model, *args, **options):
            yield model
        return
    from tome import vit

    module = _module(model)
    before = vit.current(module)
    vit.remove(module)
    try:
        yield apply(model, *args, **options)
    finally:
        vit.remove(module)  # unless the block has done so
        vit.put(before)


@contextmanager
def _applied_to_diffusion(model: M, *args: Any, **options: Any) -> Iterator[None]:
    from tome.diffusion import transform

    if transform.merging_models(model):
        raise InputError(f"Token Merging is applied to this {type(model).__name__} already; remove it first")
    apply(model, *args, **options)
    try:
        yield
    finally:
        transform.undo(model)


def _module(model: object) -> nn.Module:
    from torch import nn

    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}; it can be a torch.nn.Module or a pipeline of diffusers")
    return model


def _is_diffusion(model: object, wrapped: bool = True) -> bool:
    """Of a class of diffusers; which is not imported for the question, since without it there is no such object.

    Args:
        model: Any; a compiled one is seen through.
        wrapped: A module with such a model in it counts too, though it may have transformers beside it.
    """
    if "diffusers" not in sys.modules:
        return False
    model = getattr(model, "_orig_mod", model)
    if any(cls.__module__.startswith("diffusers.") for cls in type(model).__mro__):
        return True
    from torch import nn

    from tome.diffusion.transform import is_model

    return wrapped and isinstance(model, nn.Module) and any(is_model(part) for part in model.modules())


def _refuse_unknown(options: dict[str, Any]) -> None:
    if options:
        from tome.diffusion.state import Options

        known = [field.name for field in fields(Options)]
        unknown = [name for name in options if name not in known]
        if unknown:
            raise InputError(
                f"{', '.join(unknown)}: no argument of tome.apply, which are r, flops, tokens, prop_attn and unmerge; "
                f"for diffusion models {', '.join(known)}"
            )
