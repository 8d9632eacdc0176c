"""The sizes of the Perception Encoder and of our micro models, as constructor keywords, with published facts.

This module holds data only and imports neither torch nor timm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plm_core.shapes.words import COLOURS, SHAPES

Config = dict[str, Any]

PAPER = "arXiv 2504.13181"

MEAN = STD = (0.5, 0.5, 0.5)
"""Pixel mean and standard deviation of every model of the family, for values between 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class Core:
    """A size of PE-Core: a vision tower and a text tower that share an embedding space.

    Attributes:
        image_size: Height and width of the input in pixels.
        vision: Keywords of `pe_encoder.VisionTower`, without those that all sizes share.
        text: Keywords of `pe_encoder.TextTower`.
        vision_params: Number of parameters of the vision tower.
        params: Number of parameters of both towers and the scale of the logits.
        repo: Name of the official repository below ``facebook/``.
        timm: Name of timm's repository with the vision tower, below ``timm/``.
        open_clip: Name of open_clip's repository with both towers, below ``timm/``.
        top1: Zero-shot top-1 accuracy on ImageNet-1k in % (table of the official repository).
    """

    image_size: int
    vision: Config
    text: Config
    vision_params: int
    params: int
    repo: str
    timm: str
    open_clip: str
    top1: float


# What all towers with an attention pool share.
POOLED: Config = {"mlp_ratio": 4.0, "pool_type": "attn", "attn_pooler_heads": 8}

# The hidden width of G's MLPs is 8960, which no ratio with few digits gives.
_GIGANTIC: Config = {"patch_size": 14, "width": 1536, "heads": 16, "mlp_ratio": 8960 / 1536, "use_cls_token": False}
_LARGE: Config = {"patch_size": 14, "width": 1024, "heads": 16}

CORE: dict[str, Core] = {
    "t16_384": Core(
        image_size=384,
        vision={"patch_size": 16, "width": 192, "layers": 12, "heads": 3, "output_dim": 512},
        text={"context_length": 32, "width": 512, "heads": 8, "layers": 12, "output_dim": 512},
        vision_params=6_140_544,
        params=69_545_601,
        repo="PE-Core-T16-384",
        timm="vit_pe_core_tiny_patch16_384.fb",
        open_clip="PE-Core-T-16-384",
        top1=62.1,
    ),
    "s16_384": Core(
        image_size=384,
        vision={"patch_size": 16, "width": 384, "layers": 12, "heads": 6, "output_dim": 512},
        text={"context_length": 32, "width": 512, "heads": 8, "layers": 12, "output_dim": 512},
        vision_params=23_782_656,
        params=87_187_713,
        repo="PE-Core-S16-384",
        timm="vit_pe_core_small_patch16_384.fb",
        open_clip="PE-Core-S-16-384",
        top1=72.7,
    ),
    "b16_224": Core(
        image_size=224,
        vision={"patch_size": 16, "width": 768, "layers": 12, "heads": 12, "output_dim": 1024},
        text={"context_length": 32, "width": 1024, "heads": 16, "layers": 24, "output_dim": 1024},
        vision_params=93_672_960,
        params=447_659_521,
        repo="PE-Core-B16-224",
        timm="vit_pe_core_base_patch16_224.fb",
        open_clip="PE-Core-B-16",
        top1=78.4,
    ),
    "l14_336": Core(
        image_size=336,
        vision={**_LARGE, "layers": 24, "output_dim": 1024},
        text={"context_length": 32, "width": 1024, "heads": 16, "layers": 24, "output_dim": 1024},
        vision_params=317_151_232,
        params=671_137_793,
        repo="PE-Core-L14-336",
        timm="vit_pe_core_large_patch14_336.fb",
        open_clip="PE-Core-L-14-336",
        top1=83.5,
    ),
    "g14_448": Core(
        image_size=448,
        vision={**_GIGANTIC, "layers": 50, "output_dim": 1280},
        text={"context_length": 72, "width": 1280, "heads": 20, "layers": 24, "output_dim": 1280},
        vision_params=1_882_032_640,
        params=2_419_266_561,
        repo="PE-Core-G14-448",
        timm="vit_pe_core_gigantic_patch14_448.fb",
        open_clip="PE-Core-bigG-14-448",
        top1=85.4,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """A size of PE-Lang or PE-Spatial: a vision tower whose tokens are the output.

    Attributes:
        image_size: Height and width of the input in pixels.
        vision: Keywords of `pe_encoder.VisionTower`, without `TOKENS`.
        params: Number of parameters.
        repo: Name of the official repository below ``facebook/``.
        timm: Name of timm's repository below ``timm/``, without the tag.
        tags: Tags of the published weights, the default first.
        metrics: Published scores.
    """

    image_size: int
    vision: Config
    params: int
    repo: str
    timm: str
    tags: tuple[str, ...] = ("fb",)
    metrics: Mapping[str, float]


# What the towers share whose tokens are the output: no norm after the blocks, no pooling, no projection.
TOKENS: Config = {"pool_type": "none", "use_ln_post": False, "output_dim": None}

ADE = "ADE20k mIoU, linear (published)"
DOCVQA = "DocVQA with Llama-3.1-8B (published)"

LANG: dict[str, Aligned] = {
    "l14_448": Aligned(
        image_size=448,
        vision={**_LARGE, "layers": 23, "mlp_ratio": 4.0, "ls_init_value": 0.1},
        params=291_415_040,
        repo="PE-Lang-L14-448",
        timm="vit_pe_lang_large_patch14_448",
        tags=("fb", "fb_tiling"),
        metrics={DOCVQA: 81.9},
    ),
    "g14_448": Aligned(
        image_size=448,
        vision={**_GIGANTIC, "layers": 47, "ls_init_value": 0.1},
        params=1_740_922_624,
        repo="PE-Lang-G14-448",
        timm="vit_pe_lang_gigantic_patch14_448",
        tags=("fb", "fb_tiling"),
        metrics={DOCVQA: 84.4},
    ),
}

SPATIAL: dict[str, Aligned] = {
    "t16_512": Aligned(
        image_size=512,
        vision={"patch_size": 16, "width": 192, "layers": 12, "heads": 3, "mlp_ratio": 4.0},
        params=5_683_200,
        repo="PE-Spatial-T16-512",
        timm="vit_pe_spatial_tiny_patch16_512",
        metrics={ADE: 27.6},
    ),
    "s16_512": Aligned(
        image_size=512,
        vision={"patch_size": 16, "width": 384, "layers": 12, "heads": 6, "mlp_ratio": 4.0},
        params=21_983_232,
        repo="PE-Spatial-S16-512",
        timm="vit_pe_spatial_small_patch16_512",
        metrics={ADE: 37.5},
    ),
    "b16_512": Aligned(
        image_size=512,
        vision={"patch_size": 16, "width": 768, "layers": 12, "heads": 12, "mlp_ratio": 4.0},
        params=86_433_792,
        repo="PE-Spatial-B16-512",
        timm="vit_pe_spatial_base_patch16_512",
        metrics={ADE: 44.4},
    ),
    "l14_448": Aligned(
        image_size=448,
        vision={**_LARGE, "layers": 24, "mlp_ratio": 4.0},
        params=303_964_160,
        repo="PE-Spatial-L14-448",
        timm="vit_pe_spatial_large_patch14_448",
        metrics={ADE: 48.1},
    ),
    "g14_448": Aligned(
        image_size=448,
        vision={**_GIGANTIC, "layers": 50, "ls_init_value": 0.1},
        params=1_851_887_104,
        repo="PE-Spatial-G14-448",
        timm="vit_pe_spatial_gigantic_patch14_448",
        metrics={ADE: 49.3},
    ),
}

MICRO_WORDS: tuple[str, ...] = (
    *("a", "photo", "of", "the", "and", "small", "large", "left", "right", "above", "below"),
    *COLOURS,
    *SHAPES,
)
"""The words of our micro CLIP: those of the captions of the world of shapes, and of prompts."""

MICRO_CLIP: Config = {
    "vision": {
        "patch_size": 8,
        "width": 64,
        "layers": 4,
        "heads": 4,
        "mlp_ratio": 2.0,
        "output_dim": 64,
        "image_size": 48,
        "pool_type": "attn",
        "attn_pooler_heads": 4,
    },
    "text": {
        "context_length": 24,
        "width": 64,
        "heads": 4,
        "layers": 1,
        "mlp_ratio": 2.0,
        "output_dim": 64,
        "vocab_size": len(MICRO_WORDS) + 4,
    },
    "vocabulary": MICRO_WORDS,
}
"""Our micro CLIP."""

MICRO_SPATIAL: Config = {
    **{name: value for name, value in MICRO_CLIP["vision"].items() if "pool" not in name},
    **TOKENS,
    "ls_init_value": 0.1,
    "image_size": 96,
}
"""Our micro model of PE-Spatial: the vision tower of the micro CLIP, without what follows its blocks."""

BEST_LAYER: Mapping[str, float] = {
    "zero-shot": 50 / 50,
    "captioning": 48 / 50,
    "vqa": 47 / 50,
    "segmentation": 44 / 50,
    "depth": 39 / 50,
    "detection": 38 / 50,
    "grounding": 38 / 50,
    "ocr": 38 / 50,
    "tracking": 32 / 50,
}
"""The relative depth of the layer whose frozen features are best for a task, for ``layer_idx=``.

The numbers are those of PE-Core-G, which has 50 layers (arXiv 2504.13181, section 3 and the layer analysis in its
figures and tables). For the smaller sizes they are an extrapolation, which the paper does not state. In PE-Lang the
last layer is best for every language task; in PE-Spatial-G the last three are best for tracking and segmentation.
"""
