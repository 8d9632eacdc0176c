"""The spatial alignment of the paper as a table (arXiv 2504.13181, section 5 and its appendix), and presets of our own.

Each configuration is data, and `dataclasses.replace` makes a changed one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pe_encoder.recipes.tables import RATIO
from plm_core.training import Recipe
from plm_core.training.checks import AT_LEAST_0, AT_LEAST_1, MORE_THAN_0, RATE, SCALE, SHARE, Range, check_config

DEPTH: Range = (lambda depth: 0 < depth <= 1, "a relative depth above 0 and up to 1")
COLOURS = "pe_encoder.recipes.spatial_teachers:colours"


@dataclass(frozen=True, kw_only=True)
class SpatialConfig:
    """The alignment of a vision tower for dense tasks, on images alone.

    Attributes:
        recipe: The optimisation.
        core: The model to start from, whose frozen copy is the first teacher: the name of a pe_core_* or pe_clip_* with
            pretrained weights, or a model folder.
        core_layer: The layer of the first teacher, as relative depth. The paper's is 41 of 50.
        teacher: The second teacher, ``"module:function"``: images [B, 3, H, W] as the student gets them -> features
            [B, D, rows, columns] of any D and grid. The paper's is SAM 2.1; ours by default is a histogram of colours.
        core_weight: Weight of the loss of the tokens against the first teacher.
        local_weight: Weight of the loss of their similarities against those of the second.
        sharpness: t, the factor by which similarities of the second teacher are sharpened.
        mask_ratio: Share of the blocks of tokens that are masked.
        mask_block: Side of such a block in tokens.
        drop_path: Rate of dropped paths in the student.
        scale: Smallest and largest area of a random crop, as fractions of the image.
        ratio: Smallest and largest ratio of width to height of a random crop.
        brightness: The most that a factor of the brightness differs from 1.
        saturation: The most that a factor of the saturation differs from 1.
        hflip: Probability of a horizontal flip.
    """

    recipe: Recipe
    core: str
    core_layer: float = 41 / 50
    teacher: str = COLOURS
    core_weight: float = 1.0
    local_weight: float = 1.0
    sharpness: float = 20.0
    mask_ratio: float = 0.75
    mask_block: int = 2
    drop_path: float = 0.4
    scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (0.75, 1.33)
    brightness: float = 0.32
    saturation: float = 0.32
    hflip: float = 0.5

    def __post_init__(self) -> None:
        check_config(
            self,
            core_layer=DEPTH,
            core_weight=AT_LEAST_0,
            local_weight=AT_LEAST_0,
            sharpness=MORE_THAN_0,
            mask_ratio=RATE,
            mask_block=AT_LEAST_1,
            drop_path=RATE,
            scale=SCALE,
            ratio=RATIO,
            brightness=SHARE,
            saturation=SHARE,
            hflip=SHARE,
        )


IMAGES = 300e6
"""Images of the paper's alignment, each of which is seen about once."""
_PLAIN: dict[str, Any] = {"ratio": (1.0, 1.0), "brightness": 0.0, "saturation": 0.0}

SPATIAL: dict[str, SpatialConfig] = {
    # Section 5: 24 000 steps without a warm-up. The shape of the decay is not published; it is a cosine here.
    "paper": SpatialConfig(
        core="pe_core_g14_448",
        recipe=Recipe(
            epochs=24_000 * 12_288 / IMAGES,
            batch_size=12_288,
            lr=5e-4,
            optimizer="lamb",
            betas=(0.9, 0.95),
            weight_decay=0.05,
        ),
    ),
    # Our own, for the smaller towers and some thousand images. The paper distills these from PE-Spatial-G instead.
    **{
        size: SpatialConfig(
            core=f"pe_core_{name}",
            recipe=Recipe(epochs=10, batch_size=256, lr=5e-5, betas=(0.9, 0.95), warmup_epochs=1, clip_grad=1.0),
            drop_path=0.1,
        )
        for size, name in (("tiny", "t16_384"), ("small", "s16_384"), ("base", "b16_224"), ("large", "l14_336"))
    },
    "micro": SpatialConfig(
        core="pe_micro_clip",
        recipe=Recipe(epochs=20, batch_size=128, lr=5e-4, betas=(0.9, 0.95), warmup_epochs=1, clip_grad=1.0),
        drop_path=0.0,
        **_PLAIN,
    ),
}
"""The presets of the recipe ``pe-spatial``."""
