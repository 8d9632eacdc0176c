"""The micro ViT of the studies, and its data: silhouettes of shapes, of which each pixel is a token."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from timm.models import VisionTransformer
from torch import nn

from hydra_attn.finetuning import DistillConfig, HydraConfig
from plm_core.shapes import SHAPES
from plm_core.training import Recipe
from plm_core.training.micro import InMemory, silhouettes
from plm_core.utils.files import write_text

SIZE = 32
PATCH = 1
"""The side of a patch in pixels; with the class token there are 1025 tokens."""
DIM = 48
DEPTH = 4
NUM_HEADS = 3
TRAIN = 2000
HELD_OUT = 2000
_RECIPE = Recipe(epochs=4, batch_size=25, lr=5e-4, weight_decay=0.05, warmup_epochs=0.5, clip_grad=1.0)
CONFIG = HydraConfig.plain(_RECIPE)
DISTILL = DistillConfig.plain(replace(_RECIPE, epochs=2, warmup_epochs=0.25))


def vit(num_heads: int = NUM_HEADS) -> nn.Module:
    """Return a micro ViT with random weights, whose patches are embedded by two convolutions."""
    model: Any = VisionTransformer(
        img_size=SIZE,
        patch_size=PATCH,
        in_chans=1,
        embed_dim=DIM,
        depth=DEPTH,
        num_heads=num_heads,
        mlp_ratio=2,
        num_classes=len(SHAPES),
    )
    model.patch_embed.proj = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, DIM, PATCH + 2, stride=PATCH, padding=1),
    )
    with_stem: nn.Module = model
    return with_stem


def data(split: Literal["train", "heldout"]) -> InMemory:
    """Return the silhouettes of a split."""
    return silhouettes(split, TRAIN if split == "train" else HELD_OUT)


def remembered(file: Path, measure: Callable[[], float]) -> float:
    """Return the number that a file holds, or measure it and write it there, so that a stopped study goes on."""
    if not file.exists():
        write_text(file, json.dumps(measure()))
    return float(json.loads(file.read_text()))


def fresh(seed: int, num_heads: int = NUM_HEADS) -> nn.Module:
    """Return a micro ViT whose random weights depend on the seed alone."""
    torch.manual_seed(seed)
    return vit(num_heads)
