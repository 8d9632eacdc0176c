"""How a training optimises, in the terms of the papers' tables, and the parameter groups that follow from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from plm_core.errors import InputError

Loss = Callable[[nn.Module, Any], "Tensor | tuple[Tensor, Mapping[str, Tensor]]"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a training optimises, in the terms of the papers' tables. Rates are absolute, batches are whole.

    Attributes:
        epochs: Passes over the data; with ``aug_repeats`` they count each repetition.
        batch_size: Samples per optimiser step, over all processes, accumulation steps and repetitions.
        lr: Peak learning rate.
        optimizer: "adamw" or "sgd" (with momentum ``betas[0]``).
        betas: Of AdamW.
        weight_decay: Of matrices; vectors and what ``model.no_weight_decay()`` names have none.
        warmup_epochs: Epochs in which the rate rises linearly.
        warmup_start: Where it starts, as a fraction of ``lr``.
        schedule: "cosine" to zero; or "steps", a tenth after each of ``milestones``.
        milestones: As fractions of the whole training.
        layer_decay: Factor on the rate from each layer to the one below (by ``model.group_matcher``); None for none.
        clip_grad: Largest norm of the gradient; None for no limit.
        aug_repeats: Augmentations of each sample that are in a batch together (repeated augmentation).
    """

    epochs: float
    batch_size: int
    lr: float
    optimizer: Literal["adamw", "sgd"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    warmup_epochs: float = 0.0
    warmup_start: float = 0.0
    schedule: Literal["cosine", "steps"] = "cosine"
    milestones: tuple[float, ...] = ()
    layer_decay: float | None = None
    clip_grad: float | None = None
    aug_repeats: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr", "aug_repeats"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be more than 0, not {getattr(self, name)!r}")
        if self.warmup_epochs > self.epochs:
            raise InputError(
                f"warmup_epochs {self.warmup_epochs} is more than epochs {self.epochs}: lr is never reached"
            )
        if self.batch_size % self.aug_repeats:
            raise InputError(f"batch_size {self.batch_size} is not a multiple of aug_repeats {self.aug_repeats}")

    def lr_factor(self, step: int, steps: int) -> float:
        """The learning rate of a step, as a fraction of ``lr``."""
        done = step / max(steps, 1)
        warmup = self.warmup_epochs / self.epochs
        if done < warmup:
            return self.warmup_start + (1 - self.warmup_start) * done / warmup
        if self.schedule == "steps":
            return 0.1 ** sum(done >= milestone for milestone in self.milestones)
        return 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1 - warmup, 1e-12)))


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Optimiser groups: weight decay on matrices only, the rate of each layer under ``recipe.layer_decay``."""
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    named: Any = getattr(model, "no_weight_decay", set)
    exempt = set(named())
    if recipe.layer_decay is None:
        groups: list[dict[str, Any]] = param_groups_weight_decay(model, recipe.weight_decay, exempt)
        return [{**group, "lr": recipe.lr} for group in groups]
    if not hasattr(model, "group_matcher"):
        raise InputError(f"layer_decay needs a model with group_matcher(), which {type(model).__name__} lacks")
    groups = param_groups_layer_decay(model, recipe.weight_decay, exempt, layer_decay=recipe.layer_decay)
    return [{**group, "lr": recipe.lr * group["lr_scale"]} for group in groups]
