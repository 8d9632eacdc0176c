"""The micro ViTs of the studies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

MODEL: Mapping[str, Any] = {
    "img_size": 32,
    "patch_size": 4,
    "in_chans": 1,
    "embed_dim": 48,
    "depth": 4,
    "num_heads": 2,
    "mlp_ratio": 2,
}


def plain_vit(num_classes: int, **model: Any) -> nn.Module:
    """Return a micro ViT with absolute positions and a class token."""
    return _with_stem(VisionTransformer(num_classes=num_classes, **{**MODEL, **model}))


def rotary_vit(num_classes: int, **model: Any) -> nn.Module:
    """Return a micro ViT whose only positions are rotary."""
    positions = {"use_abs_pos_emb": False, "use_rot_pos_emb": True, "rope_temperature": 100.0}  # as in DINOv3
    options = {**MODEL, **positions, **model}
    return _with_stem(Eva(num_classes=num_classes, global_pool="token", head_init_scale=1.0, **options))


def _with_stem(model: Any) -> nn.Module:
    """Embed patches by two convolutions, the first of which overlaps: such a model learns in few epochs."""
    dim = model.embed_dim
    first = nn.Conv2d(1, 16, 3, stride=2, padding=1)
    model.patch_embed.proj = nn.Sequential(first, nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, dim, 2, stride=2))
    with_stem: nn.Module = model
    return with_stem
