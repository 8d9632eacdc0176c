"""The trainings of the paper as tables (arXiv 2412.09586, section 4 and supplement), and presets for micro models.

Each configuration is data, and `dataclasses.replace` makes a changed one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from plm_core import InputError
from plm_core.training import Recipe
from plm_core.training.checks import AT_LEAST_0, AT_LEAST_1, MORE_THAN_0, check_config


@dataclass(frozen=True, kw_only=True)
class EpochRecipe(Recipe):
    """A recipe whose learning rate changes with the epoch, not with the step. AdamW without decay is Adam.

    Attributes:
        decay: "cosine" lets the learning rate fall from ``lr`` towards ``final_lr``, which an epoch after the last
            would have; "constant" keeps it.
        final_lr: The learning rate that a cosine ends at.
    """

    decay: Literal["cosine", "constant"] = "cosine"
    final_lr: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_config(self, final_lr=AT_LEAST_0)
        if self.final_lr > self.lr:
            raise InputError(f"final_lr {self.final_lr} is more than lr {self.lr}")

    def lr_factor(self, step: int, steps: int) -> float:
        """Return the learning rate of the epoch that a step is in, as a fraction of ``lr``."""
        epoch = math.floor(step * self.epochs / max(steps, 1) + 1e-9)  # a product may lie just below a whole number
        if epoch < self.warmup_epochs:
            return super().lr_factor(step, steps)
        if self.decay == "constant":
            return 1.0
        final = self.final_lr / self.lr
        return final + (1 - final) * (1 + math.cos(math.pi * min(epoch / self.epochs, 1.0))) / 2


@dataclass(frozen=True, kw_only=True)
class GazeConfig:
    """The training of a model of gaze.

    Attributes:
        recipe: The optimisation.
        inout_lr: Learning rate of the in/out head and token, at least that of the recipe, which is for all else. None
            if they are not trained, and only people count whose target is inside.
        step: Step between the frames of a clip that are trained on: 6 takes every sixth frame.
        augmented: Whether pictures are cropped and flipped and head boxes are moved, see `gazelle.data.augment`.
        frozen: Whether the backbone stays as it is.
    """

    recipe: Recipe
    inout_lr: float | None = None
    step: int = 1
    augmented: bool = True
    frozen: bool = True

    def __post_init__(self) -> None:
        check_config(self, inout_lr=MORE_THAN_0, step=AT_LEAST_1)
        if self.inout_lr is not None and self.inout_lr < self.recipe.lr:
            raise InputError(f"inout_lr is {self.inout_lr}; at least lr, {self.recipe.lr}, is expected")


_MICRO = Recipe(epochs=10, batch_size=16, lr=1e-3, warmup_epochs=1)

FOLLOW: Mapping[str, GazeConfig] = {
    "paper": GazeConfig(
        recipe=EpochRecipe(epochs=15, batch_size=60, lr=1e-3, weight_decay=0.0, final_lr=1e-7),
    ),
    "micro": GazeConfig(recipe=_MICRO, frozen=False),
}
"""The presets of ``gaze-follow``, the training on GazeFollow."""

VIDEO: Mapping[str, GazeConfig] = {
    "paper": GazeConfig(
        recipe=EpochRecipe(epochs=8, batch_size=60, lr=1e-5, weight_decay=0.0, decay="constant"),
        inout_lr=1e-2,
        step=6,
    ),
    "micro": GazeConfig(recipe=_MICRO, inout_lr=1e-3, frozen=False),
}
"""The presets of ``gaze-vat``, the training on VideoAttentionTarget that follows."""
