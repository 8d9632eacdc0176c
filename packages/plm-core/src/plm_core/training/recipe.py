"""The recipe of a training, in the terms of the tables in papers, and the parameter groups that follow from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from plm_core.errors import InputError
from plm_core.training.checks import AT_LEAST_0, MORE_THAN_0, SHARE, check_config

Loss = Callable[[nn.Module, Any], Tensor | tuple[Tensor, Mapping[str, Tensor]]]
"""A loss function: (model, batch) -> a scalar, or a scalar and its named parts, which are logged."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The optimisation of a training, in the terms of the tables in papers.

    Attributes:
        epochs: Passes over the data. With ``aug_repeats``, each repetition counts as a pass.
        batch_size: Samples per optimiser step, over all processes, accumulation steps and repetitions.
        lr: Peak learning rate. It is absolute, not relative to the batch size.
        optimizer: "adamw", "lamb" (arXiv 1904.00962, as timm has it) or "sgd" (with momentum ``betas[0]``).
        betas: Coefficients of AdamW and LAMB.
        weight_decay: Weight decay of matrices. Vectors and the parameters in ``model.no_weight_decay()`` have none.
        decay_all: Whether these have it too.
        warmup_epochs: Epochs in which the learning rate rises linearly.
        warmup_start: Learning rate at the first step, as a fraction of ``lr``.
        schedule: "cosine" decays to zero; "steps" divides the learning rate by ten at each of ``milestones``.
        milestones: Fractions of the whole training.
        layer_decay: Factor on the learning rate from each layer to the one below it, by ``model.group_matcher``; None
            for equal rates.
        clip_grad: Largest norm of the gradient; None for no limit.
        aug_repeats: Augmentations of the same sample in one batch (repeated augmentation).
    """

    epochs: float
    batch_size: int
    lr: float
    optimizer: Literal["adamw", "lamb", "sgd"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    decay_all: bool = False
    warmup_epochs: float = 0.0
    warmup_start: float = 0.0
    schedule: Literal["cosine", "steps"] = "cosine"
    milestones: tuple[float, ...] = ()
    layer_decay: float | None = None
    clip_grad: float | None = None
    aug_repeats: int = 1

    def __post_init__(self) -> None:
        check_config(
            self,
            epochs=MORE_THAN_0,
            batch_size=MORE_THAN_0,
            lr=MORE_THAN_0,
            betas=(lambda betas: all(0 <= beta < 1 for beta in betas), "numbers from 0 to less than 1"),
            weight_decay=AT_LEAST_0,
            warmup_epochs=AT_LEAST_0,
            warmup_start=SHARE,
            milestones=(_rising, "rising numbers, above 0 and up to 1,"),
            layer_decay=(lambda decay: 0 < decay <= 1, "None or more than 0 and up to 1"),
            clip_grad=(lambda norm: norm > 0, "None or more than 0"),
            aug_repeats=MORE_THAN_0,
        )
        if self.warmup_epochs > self.epochs:
            raise InputError(
                f"warmup_epochs {self.warmup_epochs} is more than epochs {self.epochs}: lr is never reached"
            )
        if self.batch_size % self.aug_repeats:
            raise InputError(f"batch_size {self.batch_size} is not a multiple of aug_repeats {self.aug_repeats}")

    def lr_factor(self, step: int, steps: int) -> float:
        """Return the learning rate at a step, of ``steps`` in all, as a fraction of ``lr``."""
        progress = step / max(steps, 1)
        warmup = self.warmup_epochs / self.epochs
        warmup = warmup if warmup * steps >= 1 else 0.0  # less than a step would be a step without learning
        if progress < warmup:
            return self.warmup_start + (1 - self.warmup_start) * progress / warmup
        if self.schedule == "steps":
            return 0.1 ** sum(progress >= milestone for milestone in self.milestones)
        return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(1 - warmup, 1e-12)))


def _rising(milestones: tuple[float, ...]) -> bool:
    return all(0 < milestone <= 1 for milestone in milestones) and list(milestones) == sorted(milestones)


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Return the optimiser's parameter groups: weight decay as the recipe says, and learning rates by ``layer_decay``.

    Raises:
        InputError: The recipe has ``layer_decay``, and the model has no ``group_matcher``.
    """
    groups = _groups(model, recipe)
    return [{**group, "weight_decay": recipe.weight_decay} for group in groups] if recipe.decay_all else groups


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Return the groups with weight decay on matrices only."""
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    no_weight_decay: Any = getattr(model, "no_weight_decay", set)
    decay: dict[str, Any] = {"weight_decay": recipe.weight_decay, "no_weight_decay_list": set(no_weight_decay())}
    if recipe.layer_decay is None:
        groups: list[dict[str, Any]] = param_groups_weight_decay(model, **decay)
        return [{**group, "lr": recipe.lr} for group in groups]
    if not hasattr(model, "group_matcher"):
        lacks = f"layer_decay needs a model with group_matcher(), which {type(model).__name__} lacks"
        raise InputError(f"{lacks}; layer_decay=None trains all layers alike")
    groups = param_groups_layer_decay(model, layer_decay=recipe.layer_decay, **decay)
    return [{**group, "lr": recipe.lr * group["lr_scale"]} for group in groups]
