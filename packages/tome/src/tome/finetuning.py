"""Training with Token Merging: the finetuning recipes of the ToMe paper (section 4, "training", and appendix B).

To a training, merging is one more pooling. Gradients flow through the averages and not through the matching, and
nothing else in a recipe changes. So a recipe here is the recipe of the model without merging, plus a schedule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn
from torch.utils.data import Dataset

from plm_core.runs import Job, Trained
from plm_core.runs.classification import train_classifier
from plm_core.training import Recipe, TrainResult
from plm_core.training.finetuning import FinetuneConfig
from plm_core.training.finetuning import finetune as plain_finetune
from tome.api import apply
from tome.schedule import R
from tome.vit import remove


@dataclass(frozen=True, kw_only=True)
class MergedFinetuneConfig(FinetuneConfig):
    """A supervised training during which tokens merge.

    Attributes:
        r: The argument ``r`` of `tome.apply`.
        unmerge: The argument ``unmerge`` of `tome.apply`. By default, models that pool their patches count each once.
    """

    r: R | float
    unmerge: bool | Literal["last"] | None = None


def _mae(epochs: int, layer_decay: float, drop_path: float, r: int) -> MergedFinetuneConfig:
    """Return the finetuning of masked autoencoders (arXiv 2111.06377, table 9): a base rate of 1e-3 for 256 images.

    The paper's models pool their patches by size, as `tome.apply` does by default.
    """
    recipe = Recipe(
        epochs=epochs, batch_size=1024, lr=4e-3, weight_decay=0.05, warmup_epochs=5, layer_decay=layer_decay
    )
    return MergedFinetuneConfig(recipe=recipe, drop_path=drop_path, r=r)


# The training of DeiT (arXiv 2012.12877, table 9), which has a base rate of 5e-4 for 512 images.
_DEIT = MergedFinetuneConfig(
    recipe=Recipe(epochs=300, batch_size=1024, lr=1e-3, weight_decay=0.05, warmup_epochs=5), drop_path=0.1, r=13
)

PAPER: dict[str, MergedFinetuneConfig] = {
    "deit_tiny_r13": _DEIT,
    "deit_small_r13": _DEIT,
    "mae_base_r16": _mae(100, 0.65, 0.1, r=16),
    "mae_large_r8": _mae(50, 0.75, 0.2, r=8),
    "mae_huge_r7": _mae(50, 0.75, 0.3, r=7),
}
"""The models trained with Token Merging whose scores the paper reports (its table 4 and appendix)."""

PRESETS: dict[str, MergedFinetuneConfig] = {
    **PAPER,
    "micro": MergedFinetuneConfig.plain(
        Recipe(epochs=5, batch_size=64, lr=3e-4, weight_decay=0.05, warmup_epochs=0.5, clip_grad=1.0), r=6
    ),
}
"""The presets of the recipe ``tome-finetune``."""


def finetune(
    model: nn.Module, data: Dataset[Any], config: MergedFinetuneConfig, num_classes: int, **options: Any
) -> TrainResult:
    """Train a classifier in place while its tokens merge. Token Merging stays applied afterwards.

    Args:
        model: A model that `tome.apply` works on.
        data: A dataset of (input, label).
        config: One of `PAPER`, or your own.
        num_classes: Number of classes.
        **options: Keyword arguments of `plm_core.training.fit`.

    Returns:
        The result of `plm_core.training.finetuning.finetune`.

    Raises:
        NotSupported: The model's tokens cannot merge. The model is unchanged.
    """
    remove(model)
    apply(model, config.r, unmerge=config.unmerge)
    return plain_finetune(model, data, config, num_classes, **options)


def run(job: Job) -> Trained | None:
    """Train a classifier of images while its tokens merge, as ``plm train tome-finetune`` does.

    The model folder holds the plain model. It is scored with and without merging.
    """
    unmerge = job.config.unmerge
    merging = f"tome:r={job.config.r}" + ("" if unmerge is None else f",unmerge={unmerge}")
    return train_classifier(replace(job, transforms=(*job.transforms, merging)))
