"""The papers' trainings as tables by size (Hiera paper, appendix).

Each configuration is data, and `dataclasses.replace` makes a changed one. Learning rates are the ones that the paper
prints, for the batch size that is given with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hiera.configs import SIZES, VIDEO_SIZES
from plm_core.training import Recipe
from plm_core.training.checks import AT_LEAST_1, RATE, SCALE, SHARE, check_config
from plm_core.training.finetuning import FinetuneConfig
from plm_core.video import ClipSettings


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """The configuration of a masked pretraining.

    Attributes:
        recipe: The optimisation.
        mask_ratio: Share of the mask units that are hidden from the encoder.
        drop_path: Drop path rate of the encoder's last block. Unlike ViT, Hiera needs it from base upwards
            (section 4.1).
        scale: Smallest and largest area of the random crops, as fractions of the image.
        hflip: Probability of a horizontal flip.
        decoder_embed_dim: Width of the decoder.
        decoder_depth: Number of blocks in the decoder.
        decoder_num_heads: Number of attention heads in the decoder.
    """

    recipe: Recipe
    mask_ratio: float = 0.6
    drop_path: float = 0.0
    scale: tuple[float, float] = (0.2, 1.0)
    hflip: float = 0.5
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16

    def __post_init__(self) -> None:
        check_config(
            self,
            mask_ratio=(lambda ratio: 0 < ratio < 1, "a number between 0 and 1"),
            drop_path=RATE,
            scale=SCALE,
            hflip=SHARE,
            decoder_embed_dim=AT_LEAST_1,
            decoder_depth=AT_LEAST_1,
            decoder_num_heads=AT_LEAST_1,
        )


@dataclass(frozen=True, kw_only=True)
class VideoPretrainConfig(ClipSettings, PretrainConfig):
    """The configuration of a masked pretraining on clips: that of `PretrainConfig`, and how clips are taken."""


@dataclass(frozen=True, kw_only=True)
class VideoFinetuneConfig(ClipSettings, FinetuneConfig):
    """The configuration of a training of a classifier of clips: that of `FinetuneConfig`, and how clips are taken."""


@dataclass(frozen=True, kw_only=True)
class DetectConfig:
    """The configuration of a detector's training on a pretrained trunk.

    Attributes:
        recipe: The optimisation.
        img_size: Side of the training images in pixels.
        scale: Smallest and largest factor of large-scale jitter.
        drop_path: Drop path rate of the trunk's last block.
        cascade: Whether to train a Cascade Mask R-CNN instead of a Mask R-CNN.
    """

    recipe: Recipe
    img_size: int = 1024
    scale: tuple[float, float] = (0.1, 2.0)
    drop_path: float = 0.2
    cascade: bool = False

    def __post_init__(self) -> None:
        check_config(
            self,
            img_size=AT_LEAST_1,
            drop_path=RATE,
            scale=(lambda scale: 0 < scale[0] <= scale[1], "a smaller and a larger number above 0"),
        )


def _by_size(sizes: Iterable[str], *values: Any) -> dict[str, Any]:
    """Return one value per size."""
    return dict(zip(sizes, values, strict=True))


# Columns: drop path.
_PRETRAIN_IMAGE = _by_size(SIZES, 0.0, 0.0, 0.2, 0.2, 0.2, 0.3)
PRETRAIN_IMAGE: dict[str, PretrainConfig] = {
    size: PretrainConfig(
        recipe=Recipe(epochs=1600, batch_size=4096, lr=8e-4, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=40),
        drop_path=drop_path,
    )
    for size, drop_path in _PRETRAIN_IMAGE.items()
}

# Columns: epochs, learning rate, drop path, layer decay.
_FINETUNE_IMAGE = _by_size(
    SIZES,
    (300, 2e-3, 0.1, 0.65),
    (200, 2e-3, 0.1, 0.65),
    (100, 2e-3, 0.1, 0.7),
    (100, 1e-3, 0.1, 0.7),
    (50, 1e-3, 0.1, 0.85),
    (50, 1e-3, 0.3, 0.85),
)
FINETUNE_IMAGE: dict[str, FinetuneConfig] = {
    size: FinetuneConfig(
        recipe=Recipe(epochs=epochs, batch_size=1024, lr=lr, weight_decay=0.05, warmup_epochs=5, layer_decay=decay),
        drop_path=drop_path,
    )
    for size, (epochs, lr, drop_path, decay) in _FINETUNE_IMAGE.items()
}

# Columns: learning rate, drop path. The drop path is that for 3200 epochs, as for the published models.
_PRETRAIN_VIDEO = _by_size(VIDEO_SIZES, (8e-4, 0.1), (8e-4, 0.2), (8e-4, 0.2), (3.2e-4, 0.4))
PRETRAIN_VIDEO: dict[str, VideoPretrainConfig] = {
    size: VideoPretrainConfig(
        recipe=Recipe(
            epochs=3200, batch_size=512, lr=lr, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=120, aug_repeats=4
        ),
        mask_ratio=0.9,
        drop_path=drop_path,
        scale=(0.5, 1.0),
    )
    for size, (lr, drop_path) in _PRETRAIN_VIDEO.items()
}

# The paper does not say whether these epochs count repetitions. We assume that they do, as in its pretraining.
# Columns: epochs, learning rate, drop path, layer decay (after 3200 epochs of pretraining), dropout.
_FINETUNE_VIDEO = _by_size(
    VIDEO_SIZES,
    (150, 8e-4, 0.2, 0.8, 0.3),
    (150, 8e-4, 0.2, 0.8, 0.3),
    (100, 8e-4, 0.2, 0.875, 0.5),
    (100, 4e-4, 0.3, 0.875, 0.5),
)
FINETUNE_VIDEO: dict[str, VideoFinetuneConfig] = {
    size: VideoFinetuneConfig(
        recipe=Recipe(
            epochs=epochs,
            batch_size=256,
            lr=lr,
            weight_decay=0.05,
            warmup_epochs=10,
            layer_decay=decay,
            clip_grad=5.0,
            aug_repeats=2,
        ),
        drop_path=drop_path,
        dropout=dropout,
        auto_augment="rand-m7-mstd0.5-inc1",
    )
    for size, (epochs, lr, drop_path, decay, dropout) in _FINETUNE_VIDEO.items()
}

# The ViTDet recipe with Hiera's learning rates. 100 epochs of COCO are 184375 steps. The learning rate falls to a tenth
# after 163889 of them, and again after 177546.
_COCO: dict[str, Any] = {
    "epochs": 100,
    "batch_size": 64,
    "weight_decay": 0.1,
    "schedule": "steps",
    "milestones": (163889 / 184375, 177546 / 184375),
    "warmup_epochs": 100 * 250 / 184375,
    "warmup_start": 0.001,
}
DETECT: dict[str, DetectConfig] = {
    size: DetectConfig(recipe=Recipe(**_COCO, lr=lr), drop_path=drop_path)
    for size, lr, drop_path in [("base", 3.5e-5, 0.2), ("base_plus", 3.5e-5, 0.2), ("large", 3e-5, 0.4)]
}
# ViTDet's own learning rates, for a detector on a ViTDet trunk.
DETECT_VIT: dict[str, DetectConfig] = {
    size: DetectConfig(recipe=Recipe(**{**_COCO, "epochs": epochs}, lr=1e-4, layer_decay=decay), drop_path=drop_path)
    for size, epochs, drop_path, decay in [("base", 100, 0.1, 0.7), ("large", 100, 0.4, 0.8), ("huge", 75, 0.5, 0.9)]
}

# Training a micro model takes minutes on two cores.
_MICRO_PRETRAIN = Recipe(epochs=20, batch_size=128, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=2)
_MICRO_DECODER: dict[str, Any] = {"decoder_embed_dim": 64, "decoder_depth": 2, "decoder_num_heads": 4}
PRETRAIN_IMAGE["micro"] = PretrainConfig(recipe=_MICRO_PRETRAIN, **_MICRO_DECODER)
PRETRAIN_VIDEO["micro"] = VideoPretrainConfig(
    recipe=_MICRO_PRETRAIN, mask_ratio=0.75, scale=(0.5, 1.0), **_MICRO_DECODER
)
FINETUNE_IMAGE["micro"] = FinetuneConfig.plain(
    Recipe(epochs=20, batch_size=64, lr=1e-3, weight_decay=0.05, warmup_epochs=2, clip_grad=1.0)
)
FINETUNE_VIDEO["micro"] = VideoFinetuneConfig.plain(
    Recipe(epochs=16, batch_size=64, lr=1e-3, weight_decay=0.05, warmup_epochs=1, clip_grad=1.0)
)
DETECT["micro"] = DetectConfig(
    recipe=Recipe(epochs=5, batch_size=8, lr=2e-3, weight_decay=0.05, warmup_epochs=0.3, clip_grad=1.0),
    img_size=96,
    scale=(0.8, 1.25),
    drop_path=0.0,
)
