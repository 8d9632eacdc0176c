"""The papers' trainings: masked pretraining and finetuning of images and video, detection (Hiera paper, appendix).

Each setting is data, so that a change is ``dataclasses.replace``; the loop is `plm_core.training.fit`. Learning rates
are as the paper prints them, for the batch beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from timm.data import create_transform
from torch import Tensor, nn
from torch.utils.data import Dataset

from hiera.mae import MaskedAutoencoderHiera
from plm_core.training import Recipe, Trained, fit
from plm_core.training.finetuning import Finetuning, accuracy, finetune, finetune_transform, mixer, test_transform

__all__ = [
    "DETECT",
    "DETECT_VIT",
    "FINETUNE_IMAGE",
    "FINETUNE_VIDEO",
    "PRETRAIN_IMAGE",
    "PRETRAIN_VIDEO",
    "Detecting",
    "Finetuning",
    "Pretraining",
    "accuracy",
    "detect",
    "finetune",
    "finetune_transform",
    "mixer",
    "pretrain",
    "pretrain_transform",
    "test_transform",
]

SIZES = ("tiny", "small", "base", "base_plus", "large", "huge")
VIDEO_SIZES = ("base", "base_plus", "large", "huge")


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A masked pretraining.

    Attributes:
        recipe: The optimisation.
        mask_ratio: Share of mask units that the encoder does not see.
        drop_path: Rate of the encoder's last block; needed from base upwards, other than for ViT (section 4.1).
        crop: Area of the random crops, as fractions of the picture's.
        flip: Whether left and right are the same to the labels of what follows.
    """

    recipe: Recipe
    mask_ratio: float = 0.6
    drop_path: float = 0.0
    crop: tuple[float, float] = (0.2, 1.0)
    flip: bool = True


@dataclass(frozen=True, kw_only=True)
class Detecting:
    """A training of a detector on a pretrained trunk.

    Attributes:
        recipe: The optimisation.
        img_size: Side of the training images in pixels.
        scale: Of large-scale jitter.
        drop_path: Rate of the trunk's last block.
        cascade: Cascade Mask R-CNN instead of Mask R-CNN.
    """

    recipe: Recipe
    img_size: int = 1024
    scale: tuple[float, float] = (0.1, 2.0)
    drop_path: float = 0.2
    cascade: bool = False


def _by_size(sizes: Sequence[str], *values: Any) -> dict[str, Any]:
    return dict(zip(sizes, values, strict=True))


_IMAGE_DROP_PATH = _by_size(SIZES, 0.0, 0.0, 0.2, 0.2, 0.2, 0.3)
PRETRAIN_IMAGE: dict[str, Pretraining] = {
    size: Pretraining(
        recipe=Recipe(epochs=1600, batch=4096, lr=8e-4, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=40),
        drop_path=_IMAGE_DROP_PATH[size],
    )
    for size in SIZES
}

# epochs, learning rate, drop path, layer decay
_FINETUNE_IMAGE = _by_size(
    SIZES,
    (300, 2e-3, 0.1, 0.65),
    (200, 2e-3, 0.1, 0.65),
    (100, 2e-3, 0.1, 0.7),
    (100, 1e-3, 0.1, 0.7),
    (50, 1e-3, 0.1, 0.85),
    (50, 1e-3, 0.3, 0.85),
)
FINETUNE_IMAGE: dict[str, Finetuning] = {
    size: Finetuning(
        recipe=Recipe(epochs=epochs, batch=1024, lr=lr, weight_decay=0.05, warmup_epochs=5, layer_decay=decay),
        drop_path=drop_path,
    )
    for size, (epochs, lr, drop_path, decay) in _FINETUNE_IMAGE.items()
}

# learning rate, drop path; of the 3200 epochs that the published models had
_PRETRAIN_VIDEO = _by_size(VIDEO_SIZES, (8e-4, 0.1), (8e-4, 0.2), (8e-4, 0.2), (3.2e-4, 0.4))
PRETRAIN_VIDEO: dict[str, Pretraining] = {
    size: Pretraining(
        recipe=Recipe(epochs=3200, batch=512, lr=lr, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=120, repeat=4),
        mask_ratio=0.9,
        drop_path=drop_path,
        crop=(0.5, 1.0),
    )
    for size, (lr, drop_path) in _PRETRAIN_VIDEO.items()
}

# The paper does not say whether these epochs count repetitions; as for its pretraining, we take it that they do.
# epochs, learning rate, drop path, layer decay (after 3200 epochs of pretraining), dropout
_FINETUNE_VIDEO = _by_size(
    VIDEO_SIZES,
    (150, 8e-4, 0.2, 0.8, 0.3),
    (150, 8e-4, 0.2, 0.8, 0.3),
    (100, 8e-4, 0.2, 0.875, 0.5),
    (100, 4e-4, 0.3, 0.875, 0.5),
)
FINETUNE_VIDEO: dict[str, Finetuning] = {
    size: Finetuning(
        recipe=Recipe(
            epochs=epochs,
            batch=256,
            lr=lr,
            weight_decay=0.05,
            warmup_epochs=10,
            layer_decay=decay,
            clip_grad=5.0,
            repeat=2,
        ),
        drop_path=drop_path,
        dropout=dropout,
        auto_augment="rand-m7-mstd0.5-inc1",
    )
    for size, (epochs, lr, drop_path, decay, dropout) in _FINETUNE_VIDEO.items()
}

# The ViTDet recipe (100 epochs of COCO, 184375 steps, a tenth after 163889 and 177546 of them) with Hiera's rates
_COCO: dict[str, Any] = {
    "epochs": 100,
    "batch": 64,
    "weight_decay": 0.1,
    "schedule": "steps",
    "milestones": (163889 / 184375, 177546 / 184375),
    "warmup_epochs": 100 * 250 / 184375,
    "warmup_start": 0.001,
}
DETECT: dict[str, Detecting] = {
    size: Detecting(recipe=Recipe(**_COCO, lr=lr), drop_path=drop_path)
    for size, lr, drop_path in [("base", 3.5e-5, 0.2), ("base_plus", 3.5e-5, 0.2), ("large", 3e-5, 0.4)]
}
# ViTDet's own, for a detector on a ViTDet trunk through `detect`
DETECT_VIT: dict[str, Detecting] = {
    size: Detecting(recipe=Recipe(**{**_COCO, "epochs": epochs}, lr=1e-4, layer_decay=decay), drop_path=drop_path)
    for size, epochs, drop_path, decay in [("base", 100, 0.1, 0.7), ("large", 100, 0.4, 0.8), ("huge", 75, 0.5, 0.9)]
}

# What the micro models are trained by: minutes on two cores, and too small for drop path or mixed labels.
_PLAIN: dict[str, Any] = {"drop_path": 0.0, "auto_augment": None, "mixup": 0.0, "cutmix": 0.0}
_MICRO_PRETRAIN = Recipe(epochs=20, batch=128, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=2)
PRETRAIN_IMAGE["micro"] = Pretraining(recipe=_MICRO_PRETRAIN)
PRETRAIN_VIDEO["micro"] = Pretraining(recipe=_MICRO_PRETRAIN, mask_ratio=0.75, crop=(0.5, 1.0))
FINETUNE_IMAGE["micro"] = Finetuning(
    recipe=Recipe(epochs=20, batch=64, lr=1e-3, weight_decay=0.05, warmup_epochs=2, clip_grad=1.0), **_PLAIN
)
FINETUNE_VIDEO["micro"] = Finetuning(
    recipe=Recipe(epochs=16, batch=64, lr=1e-3, weight_decay=0.05, warmup_epochs=1, clip_grad=1.0), **_PLAIN
)
DETECT["micro"] = Detecting(
    recipe=Recipe(epochs=5, batch=8, lr=2e-3, weight_decay=0.05, warmup_epochs=0.3, clip_grad=1.0),
    img_size=96,
    scale=(0.8, 1.25),
    drop_path=0.0,
)


def pretrain(model: MaskedAutoencoderHiera, data: Dataset[Any], setting: Pretraining, **options: Any) -> Trained:
    """Masked pretraining in place, as `plm_core.training.fit`.

    Args:
        model: Made with ``drop_path_rate=setting.drop_path``.
        data: Gives (input, anything): input float [in_chans, *size], normalised, as `pretrain_transform` makes it.
        setting: One of this module's tables, or your own.
        **options: Of `fit`.
    """

    def loss(model: nn.Module, batch: Any) -> Tensor:
        value: Tensor = model(batch[0], mask_ratio=setting.mask_ratio)[0]
        return value

    return fit(model, data, loss, setting.recipe, **options)


def detect(model: nn.Module, data: Dataset[Any], setting: Detecting, **options: Any) -> Trained:
    """Training of a detector in place, as `plm_core.training.fit`.

    Args:
        model: As `hiera.detection.detector` makes it.
        data: As `hiera.coco.CocoDetection` with `hiera.coco.LargeScaleJitter`.
        setting: One of this module's tables, or your own.
        **options: Of `fit`.
    """
    from hiera import coco

    return fit(model, data, coco.loss, setting.recipe, collate=coco.collate, **options)


def pretrain_transform(size: Sequence[int], setting: Pretraining, mean: Sequence[float], std: Sequence[float]) -> Any:
    """PIL image -> float [3, height, width]: random crop and flip, normalised."""
    return create_transform(
        (3, *size),
        is_training=True,
        scale=setting.crop,
        hflip=0.5 if setting.flip else 0.0,
        color_jitter=None,
        interpolation="bicubic",
        mean=tuple(mean),
        std=tuple(std),
    )
