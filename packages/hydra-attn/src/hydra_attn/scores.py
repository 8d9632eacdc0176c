"""What the class token takes from each patch in the last Hydra layer (the paper's visualisation)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hydra_attn.api import NAME, altered_blocks
from plm_core import blocks, transforms
from plm_core.blocks import BlockView
from plm_core.errors import InputError, NotSupported


def patch_scores(model: nn.Module, x: Tensor, classes: Tensor | None = None) -> Tensor:
    """Return how much each patch speaks for a class, by what the class token takes from it in the last Hydra layer.

    Each feature has a map of attention of its own, and their mean is noise. So the features are weighed by the gradient
    g of the class's logit with respect to the output of the layer at the class token c, before the projection. The
    score of patch t is ``(phi(Q_c) * phi(K_t) * V_t) g``, so the scores of all tokens add up to ``out_c g``.

    Args:
        model: A classifier with a class token, with Hydra applied, in eval mode.
        x: [B, C, H, W], a batch as the model takes it.
        classes: [B] int64, the class of each image; None for the predicted ones.

    Returns:
        [B, P] float, for the P patches in their order, from the left to the right and downwards.

    Raises:
        InputError: Hydra is not applied, the model is in training mode, or ``x`` or ``classes`` is not allowed.
        NotSupported: The model has no class token, or does not read it, or returns something else than logits, or
            another transform merges its tokens or computes no gradients.
    """
    altered = _check(model, x)
    model_view, view = next(
        (of_model, view)
        for of_model in blocks.find(model).values()
        for view in of_model.blocks
        if view.block is altered[-1]
    )
    if not model_view.tokens.class_tokens:
        raise NotSupported(f"{type(model).__name__} has no class token, for which patches could have scores")
    seen: dict[str, Tensor] = {}

    def recording(view: BlockView) -> BlockView:
        def attend(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
            seen["v"] = v.detach().requires_grad_()
            seen["y"] = view.attention(q.detach(), k.detach(), seen["v"], **options)
            seen["taken"] = seen["y"].detach().requires_grad_()
            return seen["taken"]

        return replace(view, attention=attend)

    blocks.alter(view, recording)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            logits = model(x)
            if not isinstance(logits, Tensor) or logits.ndim != 2 or getattr(model, "num_classes", None) == 0:
                raise NotSupported(f"{type(model).__name__} returns no logits [B, classes]")
            chosen = logits.argmax(1) if classes is None else _checked(classes, logits)
            (gradient,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), seen["taken"])
            if not gradient[:, :, 0].any():
                raise NotSupported(f"the logits of {type(model).__name__} do not depend on its class token")
            # The output is linear in the values, so a value times its gradient is what it contributes.
            spoken = (seen["y"][:, :, 0] * gradient[:, :, 0]).sum()
            (of_values,) = torch.autograd.grad(spoken, seen["v"])
    finally:
        blocks.unalter(view.block)
    return (of_values * seen["v"].detach()).sum((1, 3))[:, model_view.tokens.prefix :]


def _check(model: object, x: object) -> list[nn.Module]:
    """Return the blocks with Hydra of a model that can have scores."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}; it is a torch.nn.Module")
    if not isinstance(x, Tensor) or x.ndim != 4:
        got = list(x.shape) if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise InputError(f"x is {got}; it is a tensor [B, C, H, W]")
    altered = altered_blocks(model)
    if not altered:
        raise InputError(f"Hydra is not applied to this {type(model).__name__}: see hydra_attn.apply")
    if model.training:
        raise InputError("model is in training mode: call model.eval() first")
    others = [name for name in transforms.applied_to(model) if name != NAME]
    if others:
        raise NotSupported(f"{others[0]!r} is applied to the model, too: remove it before patches are scored")
    return altered


def _checked(classes: object, logits: Tensor) -> Tensor:
    size, count = logits.shape
    if not isinstance(classes, Tensor) or classes.dtype is not torch.int64 or classes.shape != (size,):
        got = f"{classes.dtype} {list(classes.shape)}" if isinstance(classes, Tensor) else f"a {type(classes).__name__}"
        raise InputError(f"classes is {got}; it is an int64 tensor with a class for each image, [{size}]")
    if classes.min() < 0 or classes.max() >= count:
        raise InputError(f"classes has {classes.tolist()}; numbers from 0 to {count - 1} are allowed")
    return classes
