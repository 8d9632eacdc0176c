"""Supervised training of classifiers, as the papers of the hub have it: what is mixed, smoothed and augmented.

A setting is data, so that a change is ``dataclasses.replace``; the loop is `plm_core.training.fit`. It needs the extra
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
from plm_core.training import Recipe, Trained, fit


@dataclass(frozen=True, kw_only=True)
class Finetuning:
    """A supervised training of a classifier, from pretrained weights or from scratch.

    Attributes:
        recipe: The optimisation.
        drop_path: Rate of the last block.
        dropout: Before the classifier.
        auto_augment: timm's name for RandAugment; None for none.
        mixup: Alpha of mixup; 0 for none.
        cutmix: Alpha of cutmix; 0 for none.
        smoothing: Label smoothing.
        crop: Area of the random crops, as fractions of the picture's.
        flip: Whether left and right are the same to the labels.
    """

    recipe: Recipe
    drop_path: float = 0.1
    dropout: float = 0.0
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    mixup: float = 0.8
    cutmix: float = 1.0
    smoothing: float = 0.1
    crop: tuple[float, float] = (0.08, 1.0)
    flip: bool = True


def finetune(model: nn.Module, data: Dataset[Any], setting: Finetuning, num_classes: int, **options: Any) -> Trained:
    """Supervised training in place, as `plm_core.training.fit`.

    Args:
        model: Answers with logits [B, num_classes] in training mode, as any timm model does.
        data: Gives (input, label), as `finetune_transform` and a folder dataset make them.
        setting: Drop path and dropout are the model's own; make it with them.
        num_classes: Number of classes.
        **options: Of `fit`.
    """
    mix = mixer(setting, num_classes)
    criterion = SoftTargetCrossEntropy() if mix else nn.CrossEntropyLoss(label_smoothing=setting.smoothing)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        x, y = mix(*batch) if mix else batch
        value: Tensor = criterion(model(x), y)
        return value

    return fit(model, data, loss, setting.recipe, **options)


def mixer(setting: Finetuning, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Timm's mixup and cutmix of a batch (inputs, labels) -> (inputs, soft labels); of clips, all frames alike.

    None when the setting has neither. The first of a batch is mixed with the last, and so on.

    Raises:
        InputError: When called with an odd batch, which timm refuses.
    """
    if not (setting.mixup or setting.cutmix):
        return None
    mixup = Mixup(setting.mixup, setting.cutmix, label_smoothing=setting.smoothing, num_classes=num_classes)

    def mix(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if len(x) % 2:
            raise InputError(f"mixup and cutmix need an even batch, not {len(x)} samples at once: see device_batch")
        pictures = x.flatten(1, 2).clone() if x.ndim == 5 else x.clone()  # timm mixes in place, and four dimensions
        pictures, soft = mixup(pictures, y)
        return pictures.view_as(x), soft

    return mix


def finetune_transform(size: Sequence[int], setting: Finetuning, mean: Sequence[float], std: Sequence[float]) -> Any:
    """PIL image -> float [3, height, width]: random crop and flip, RandAugment, normalised."""
    return create_transform(
        (3, *size),
        is_training=True,
        scale=setting.crop,
        hflip=0.5 if setting.flip else 0.0,
        color_jitter=None,
        auto_augment=setting.auto_augment,
        interpolation="bicubic",
        mean=tuple(mean),
        std=tuple(std),
    )


def test_transform(size: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> Any:
    """PIL image -> float [3, height, width]: resized by 8 / 7, cut from the centre, normalised."""
    return create_transform((3, *size), interpolation="bicubic", crop_pct=0.875, mean=tuple(mean), std=tuple(std))


def accuracy(model: nn.Module, data: Dataset[Any], batch: int = 64, workers: int = 0) -> float:
    """Top-1 in % of a classifier on a dataset of (input, label)."""
    model.eval()
    right = total = 0
    device = next(model.parameters()).device
    with torch.inference_mode():
        for x, y in torch.utils.data.DataLoader(data, batch, num_workers=workers):
            right += int((model(x.to(device)).argmax(1).cpu() == y).sum())
            total += len(y)
    return 100 * right / total
