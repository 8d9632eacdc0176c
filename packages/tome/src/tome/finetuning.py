"""Training with Token Merging: the paper's finetune recipes (section 4, "training", and appendix B).

Merging is one more pooling to a training: gradients flow through the averages and not through the matching, and nothing
else of a recipe changes. So a recipe here is the model's own, with a schedule beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from plm_core.training import Recipe, Trained, finetuning
from plm_core.training.finetuning import Finetuning
from tome.api import apply
from tome.schedule import R
from tome.vit import remove


@dataclass(frozen=True, kw_only=True)
class MergedFinetuning:
    """A supervised training in which tokens merge.

    Attributes:
        setting: The training without merging.
        r: As of `tome.apply`.
        unmerge: As of `tome.apply`: pool over patches, not over tokens.
    """

    setting: Finetuning
    r: R | float
    unmerge: bool = False


def _mae(epochs: int, layer_decay: float, drop_path: float) -> Finetuning:
    """The finetuning of masked autoencoders (arXiv 2111.06377, table 9), whose base rate of 1e-3 is for 256 images."""
    recipe = Recipe(epochs=epochs, batch=1024, lr=4e-3, weight_decay=0.05, warmup_epochs=5, layer_decay=layer_decay)
    return Finetuning(recipe=recipe, drop_path=drop_path)


# As DeiT trains (arXiv 2012.12877, table 9): a base rate of 5e-4 for 512 images
_DEIT = Finetuning(recipe=Recipe(epochs=300, batch=1024, lr=1e-3, weight_decay=0.05, warmup_epochs=5), drop_path=0.1)

# The models trained with Token Merging whose scores the paper reports (its table 4 and appendix); pooled by size where
# the model is a finetuned masked autoencoder
PAPER: dict[str, MergedFinetuning] = {
    "deit_tiny_r13": MergedFinetuning(setting=_DEIT, r=13),
    "deit_small_r13": MergedFinetuning(setting=_DEIT, r=13),
    "mae_base_r16": MergedFinetuning(setting=_mae(100, 0.65, 0.1), r=16, unmerge=True),
    "mae_large_r8": MergedFinetuning(setting=_mae(50, 0.75, 0.2), r=8, unmerge=True),
    "mae_huge_r7": MergedFinetuning(setting=_mae(50, 0.75, 0.3), r=7, unmerge=True),
}


def finetune(
    model: nn.Module, data: Dataset[Any], merged: MergedFinetuning, num_classes: int, **options: Any
) -> Trained:
    """Train a classifier in place while its tokens merge, as `plm_core.training.finetuning.finetune`; merging stays applied.

    Args:
        model: A model that `tome.apply` works on.
        data: Gives (input, label).
        merged: One of `PAPER`, or your own.
        num_classes: Number of classes.
        **options: Of `plm_core.training.fit`.

    Raises:
        NotSupported: Tokens of the model cannot merge; it is unchanged.
    """
    remove(model)
    apply(model, merged.r, unmerge=merged.unmerge)
    return finetuning.finetune(model, data, merged.setting, num_classes, **options)
