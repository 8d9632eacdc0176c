"""`tome.apply` and what undoes it, for transformers and for diffusion models."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from plm_core.errors import InputError
from tome.schedule import R

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
            or a list with a number for each block. A float below 1 is a share of FLOPs. At most half of the patch
            tokens merge in one block; class, distillation and register tokens never do.
        flops: Instead of r: the share of the blocks' multiply-adds to leave.
        tokens: Instead of r: the share of the patch tokens to leave after the last block.
        prop_attn: Let tokens count in attention as many times as they have patches. Turn it off for models pretrained
            as masked autoencoders that were not trained with Token Merging (paper, section 4.1). "mask" and "channel"
            choose how, see `tome.attention.proportional`.
        unmerge: Blocks give all tokens back, each with what its group has: for dense tasks, and for poolings to weigh
            tokens by their size (an average over them is then one over patches).
        **diffusion: See `tome.diffusion.apply`.

    Returns:
        The same model. Applied again, the new settings replace the old ones with a warning.

    Raises:
        NotSupported: No block adapter for the model, or windows in which tokens need their places. It is unchanged.
        InputError: An argument that makes no sense; the model is unchanged.
    """
    if _is_diffusion(model):
        from tome import diffusion as theirs

        given = {"r": r, "flops": flops, "tokens": tokens}
        wrong = [name for name, value in given.items() if value is not None]
        if wrong or prop_attn is not True or unmerge:
            raise InputError(f"{type(model).__name__} is a diffusion model; it takes ratio and the arguments beside it")
        return theirs.apply(model, **diffusion)
    if diffusion:
        raise InputError(f"{', '.join(diffusion)}: for diffusion models only, which {type(model).__name__} is not")
    from tome import vit

    vit.apply(model, r, flops, tokens, prop_attn, unmerge)  # type: ignore[arg-type]
    return model


def remove(model: M) -> M:
    """Undo `apply`: the model answers as before, bit for bit.

    Raises:
        InputError: Token Merging is not applied to it.
    """
    if _is_diffusion(model):
        from tome import diffusion as theirs

        return theirs.remove(model)
    from tome import vit

    if not vit.remove(model):  # type: ignore[arg-type]
        raise InputError(f"Token Merging is not applied to this {type(model).__name__}")
    return model


@contextmanager
def applied(model: M, *args: Any, **options: Any) -> Iterator[M]:
    """`apply` for the length of a ``with`` block, `remove` after it."""
    apply(model, *args, **options)
    try:
        yield model
    finally:
        remove(model)


def _is_diffusion(model: object) -> bool:
    """Of a class of diffusers; which is not imported for the question, since without it there is no such object."""
    return "diffusers" in sys.modules and any(cls.__module__.startswith("diffusers.") for cls in type(model).__mro__)
