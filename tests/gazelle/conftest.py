"""Goldens of the original, and small models."""

from functools import partial
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import gazelle
from plm_core.testing import goldens_in


@pytest.fixture(scope="session")
def golden():
    return goldens_in(Path(__file__).parent / "goldens")


def small_vit(grid=5, patch=14, dim=32, depth=2, heads=4, **options):
    """Return a DINOv2 with random weights."""
    options = {"num_classes": 0, "init_values": 1e-5, "norm_layer": partial(nn.LayerNorm, eps=1e-6), **options}
    return VisionTransformer(grid * patch, patch, embed_dim=dim, depth=depth, num_heads=heads, **options).eval()


@pytest.fixture
def vit():
    return small_vit


@pytest.fixture(scope="session")
def model():
    """Return a small model with random weights, with an in/out head."""
    torch.manual_seed(0)
    return gazelle.GazeLLE(small_vit(), inout=True, dim=32, in_size=70, out_size=(10, 10), positions="hub").eval()
