"""Supervised training of classifiers, as the papers of the hub have it: what is mixed, smoothed and augmented.

A config is data, so that a change is ``dataclasses.replace``; the loop is `plm_core.training.fit`. It needs the extra
``plm-core[train]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.data import Mixup, create_transform
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn
from torch.utils.data import Dataset

from plm_core.errors import InputError
from plm_core.training import Recipe, TrainResult, fit


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A supervised training of a classifier, from pretrained weights or from scratch.

    Attributes:
        recipe: The optimisation.
        drop_path: Rate of the last block.
        dropout: Before the classifier.
        auto_augment: timm's name for RandAugment; None for none.
        mixup: Alpha of mixup; 0 for none.
        cutmix: Alpha of cutmix; 0 for none.
        smoothing: Label smoothing.
        scale: Area of the random crops, as fractions of the picture's.
        hflip: Probability of a horizontal flip; 0 where left and right are not the same to the labels.
    """

    recipe: Recipe
    drop_path: float = 0.1
    dropout: float = 0.0
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    mixup: float = 0.8
    cutmix: float = 1.0
    smoothing: float = 0.1
    scale: tuple[float, float] = (0.08, 1.0)
    hflip: float = 0.5


def finetune(
    model: nn.Module, data: Dataset[Any], config: FinetuneConfig, num_classes: int, **options: Any
) -> TrainResult:
    """Supervised training in place, as `plm_core.training.fit`.

    Args:
        model: Answers with logits [B, num_classes] in training mode, as any timm model does.
        data: Gives (input, label), as `finetune_transform` and a folder dataset make them.
        config: Drop path and dropout are the model's own; make it with them.
        num_classes: Number of classes.
        **options: Of `fit`.
    """
    mix = mixer(config, num_classes)
    criterion = SoftTargetCrossEntropy() if mix else nn.CrossEntropyLoss(label_smoothing=config.smoothing)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        x, y = mix(*batch) if mix else batch
        value: Tensor = criterion(model(x), y)
        return value

    return fit(model, data, loss, config.recipe, **options)


def mixer(config: FinetuneConfig, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Timm's mixup and cutmix of a batch (inputs, labels) -> (inputs, soft labels); of clips, all frames alike.

    None when the config has neither. The first of a batch is mixed with the last, and so on.

    Raises:
        InputError: When called with an odd batch, which timm refuses.
    """
    if not (config.mixup or config.cutmix):
        return None
    mixup = Mixup(config.mixup, config.cutmix, label_smoothing=config.smoothing, num_classes=num_classes)

    def mix(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if len(x) % 2:
            raise InputError(
                f"mixup and cutmix need an even batch, not {len(x)} samples at once: see per_device_batch_size"
            )
        pictures = x.flatten(1, 2).clone() if x.ndim == 5 else x.clone()  # timm mixes in place, and four dimensions
        pictures, soft = mixup(pictures, y)
        return pictures.view_as(x), soft

    return mix


def finetune_transform(size: Sequence[int], config: FinetuneConfig, mean: Sequence[float], std: Sequence[float]) -> Any:
    """PIL image -> float [3, height, width]: random crop and flip, RandAugment, normalised."""
    return create_transform(
        (3, *size),
        is_training=True,
        scale=config.scale,
        hflip=config.hflip,
        color_jitter=None,
        auto_augment=config.auto_augment,
        interpolation="bicubic",
        mean=tuple(mean),
        std=tuple(std),
    )


def eval_transform(size: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> Any:
    """PIL image -> float [3, height, width]: resized by 8 / 7, cut from the centre, normalised."""
    return create_transform((3, *size), interpolation="bicubic", crop_pct=0.875, mean=tuple(mean), std=tuple(std))


def accuracy(model: nn.Module, data: Dataset[Any], batch_size: int = 64, num_workers: int = 0) -> float:
    """Top-1 in % of a classifier on a dataset of (input, label)."""
    model.eval()
    right = total = 0
    device = next(model.parameters()).device
    with torch.inference_mode():
        for x, y in torch.utils.data.DataLoader(data, batch_size, num_workers=num_workers):
            right += int((model(x.to(device)).argmax(1).cpu() == y).sum())
            total += len(y)
    return 100 * right / total
