"""The trainings of the paper as tables (arXiv 2504.13181, tables 18 to 20), and presets of our own.

Each configuration is data, and `dataclasses.replace` makes a changed one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from plm_core.errors import InputError
from plm_core.training import Recipe
from plm_core.training.checks import AT_LEAST_1, MORE_THAN_0, RATE, SCALE, SHARE, Range, check_config

Stages = tuple[tuple[float, int], ...]
"""The stages of a training with rising sizes: the share of its steps, and the height and width of the images."""

RATIO: Range = (lambda ratio: 0 < ratio[0] <= ratio[1], "a smaller and a larger number above 0")
MAX_LOGITS: Range = (lambda scale: scale >= 1, "1 or more")
STAGES: Range = (
    lambda stages: all(0 < share <= 1 and size > 0 for share, size in stages),
    "pairs of a share above 0 and up to 1 and a size in pixels",
)


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """A contrastive training of both towers on pairs of an image and a caption.

    Attributes:
        recipe: The optimisation. Its batch is the one that the contrastive loss is over.
        drop_path: Rate of dropped paths in the vision tower.
        max_scale: The largest factor of the logits that is learned.
        chunk_size: The most images or frames that a process encodes at once. Those of a larger share of the batch are
            encoded in chunks, whose activations are computed again in the backward pass. The loss is that of the whole
            batch all the same. None for all at once.
        scale: Smallest and largest area of a random crop, as fractions of the image.
        ratio: Smallest and largest ratio of width to height of a random crop.
        brightness: The most that a factor of the brightness differs from 1.
        saturation: The most that a factor of the saturation differs from 1.
        hflip: Probability of a horizontal flip. Captions that speak of left and right need 0.
        mask_share: Share of the images that have a masked copy (1/16 in the paper); 0 for no regularisation by masks.
        mask_ratio: Share of the patches of a copy that are masked.
        mask_weight: Weight of the regularisation; the paper states none.
        stages: The stages of progressive resolution. Their shares add up to 1, and the last size is the model's own.
            Empty for that size throughout.
    """

    recipe: Recipe
    drop_path: float = 0.0
    max_scale: float = 100.0
    chunk_size: int | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 1.33)
    brightness: float = 0.32
    saturation: float = 0.32
    hflip: float = 0.5
    mask_share: float = 1 / 16
    mask_ratio: float = 0.4
    mask_weight: float = 1.0
    stages: Stages = ()

    def __post_init__(self) -> None:
        check_config(
            self,
            drop_path=RATE,
            max_scale=MAX_LOGITS,
            chunk_size=AT_LEAST_1,
            scale=SCALE,
            ratio=RATIO,
            brightness=SHARE,
            saturation=SHARE,
            hflip=SHARE,
            mask_share=SHARE,
            mask_ratio=(lambda ratio: 0 < ratio < 1, "a number between 0 and 1"),
            mask_weight=MORE_THAN_0,
            stages=STAGES,
        )
        whole = sum(share for share, _ in self.stages)
        if self.stages and abs(whole - 1) > 1e-6:
            raise InputError(f"stages {self.stages} is not allowed: the shares add up to {whole:.4g}, and 1 is")


@dataclass(frozen=True, kw_only=True)
class VideoConfig(ContrastiveConfig):
    """A contrastive training on videos: that of `ContrastiveConfig`, and how many frames stand for a video.

    Attributes:
        frames: Frames of a video, the first and the last among them. Of a shorter video some are taken several times.
    """

    frames: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_config(self, frames=AT_LEAST_1)
        if self.mask_share:
            raise InputError(f"mask_share {self.mask_share} is not allowed: videos have no masked copies, 0 is")


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """A distillation of both towers from those of a larger CLIP. Images are not augmented.

    Attributes:
        recipe: The optimisation. Its batch is the one that the matches are compared in.
        teacher: The CLIP to learn from: the name of a model with pretrained weights, or a model folder.
        teacher_scale: Factor of the teacher's logits. Twice that of PE-Core, 100, halves the temperature.
        drop_path: Rate of dropped paths in the vision tower.
        max_scale: The largest factor of the logits that is learned.
        chunk_size: The most images that a process encodes at once, see `ContrastiveConfig`.
    """

    recipe: Recipe
    teacher: str = "pe_clip_g14_448"
    teacher_scale: float = 200.0
    drop_path: float = 0.0
    max_scale: float = 100.0
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        check_config(
            self,
            teacher_scale=MORE_THAN_0,
            drop_path=RATE,
            max_scale=MAX_LOGITS,
            chunk_size=AT_LEAST_1,
        )


def _lamb(steps: int, batch_size: int, samples: float, lr: float) -> Recipe:
    """Return the optimisation that the three tables share, for a number of steps over a number of samples."""
    return Recipe(
        epochs=steps * batch_size / samples,
        batch_size=batch_size,
        lr=lr,
        optimizer="lamb",
        betas=(0.9, 0.95),
        weight_decay=0.05,
        warmup_epochs=WARMUP * batch_size / samples,
    )


PAIRS = 5.4e9
"""Pairs of an image and a caption that PE-Core was pretrained on."""
VIDEOS = 22e6
"""Videos that it was finetuned on."""
WARMUP = 2000
"""Steps of the warm-up, in all tables."""

# Table 18 has the steps and the sizes. How many samples each size got is published for an ablation of L only (10, 8, 4
# and 2 billion); equal shares for B are those of an earlier ablation with three sizes, and the shares of G are ours.
# The shape of the decay is not published either: it is a cosine here.
_PRETRAIN: dict[str, tuple[int, Stages]] = {
    "base": (443_000, ((1 / 3, 112), (1 / 3, 160), (1 / 3, 224))),
    "large": (443_000, ((10 / 24, 98), (8 / 24, 154), (4 / 24, 224), (2 / 24, 336))),
    "giant": (656_000, ((10 / 25, 98), (8 / 25, 154), (4 / 25, 224), (2 / 25, 336), (1 / 25, 448))),
}
PRETRAIN: dict[str, ContrastiveConfig] = {
    size: ContrastiveConfig(recipe=_lamb(steps, 131_072, PAIRS, 2e-3), stages=stages)
    for size, (steps, stages) in _PRETRAIN.items()
}
"""The pretraining of the paper by size (table 18)."""

# No augmentation, for models too small for it. Captions of the world of shapes speak of left and right, and of colours.
_PLAIN: dict[str, Any] = {
    "scale": (1.0, 1.0),
    "ratio": (1.0, 1.0),
    "brightness": 0.0,
    "saturation": 0.0,
    "hflip": 0.0,
    "mask_share": 0.0,
}

CONTRASTIVE: dict[str, ContrastiveConfig] = {
    # Our own, for a pretrained model and some thousand pairs: rates that keep what was learned, and crops that still
    # show what the caption says.
    "default": ContrastiveConfig(
        recipe=Recipe(epochs=10, batch_size=512, lr=1e-5, betas=(0.9, 0.95), warmup_epochs=1, clip_grad=1.0),
        scale=(0.5, 1.0),
        mask_share=0.0,
    ),
    "micro": ContrastiveConfig(
        recipe=Recipe(epochs=16, batch_size=96, lr=2e-3, betas=(0.9, 0.95), warmup_epochs=0.5, clip_grad=1.0),
        **_PLAIN,
    ),
    **PRETRAIN,
}
"""The presets of the recipe ``pe-contrastive``."""

VIDEO: dict[str, VideoConfig] = {
    # Table 19, for all sizes.
    "paper": VideoConfig(recipe=_lamb(5_400, 4_096, VIDEOS, 1e-6), mask_share=0.0),
    # Our own, for some thousand videos.
    "default": VideoConfig(
        recipe=Recipe(epochs=10, batch_size=128, lr=1e-5, betas=(0.9, 0.95), warmup_epochs=1, clip_grad=1.0),
        scale=(0.5, 1.0),
        mask_share=0.0,
    ),
    "micro": VideoConfig(
        recipe=Recipe(epochs=10, batch_size=64, lr=3e-4, betas=(0.9, 0.95), warmup_epochs=1, clip_grad=1.0),
        **_PLAIN,
    ),
}
"""The presets of the recipe ``pe-video``."""

DISTILL: dict[str, DistillConfig] = {
    # Table 20, for B and L with G as the teacher. The table has a weight decay of 0.05, and section 2.4 has none.
    "paper": DistillConfig(recipe=_lamb(269_000, 16_384, PAIRS, 1e-6)),
    # Our own, for some thousand pairs.
    "default": DistillConfig(
        recipe=Recipe(epochs=10, batch_size=512, lr=1e-5, betas=(0.9, 0.95), warmup_epochs=1, clip_grad=1.0)
    ),
    "micro": DistillConfig(
        recipe=Recipe(epochs=10, batch_size=128, lr=1e-3, betas=(0.9, 0.95), warmup_epochs=1, clip_grad=1.0),
        teacher="pe_micro_clip",
    ),
}
"""The presets of the recipe ``pe-distill``."""
