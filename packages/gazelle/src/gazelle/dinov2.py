"""DINOv2 with positions resampled as where the decoders were trained (the rule of torch.hub's DINOv2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.layers import Format
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

OFFSET = 0.1
"""What the rule adds to the wanted size before it divides. So the samples lie a little closer to one another."""


def hub_positions(stored: Tensor, prefix: int, grid: tuple[int, int]) -> Tensor:
    """Resample stored positions by the hub's rule: bicubic, without antialiasing, by a scale and not by a size.

    Args:
        stored: Positions of the special tokens and of a square grid, [1, prefix + n * n, C].
        prefix: Number of special tokens, which are left as they are.
        grid: Height and width of the wanted grid.

    Returns:
        [1, prefix + h * w, C].
    """
    special, patches = stored[:, :prefix], stored[:, prefix:]
    size = math.isqrt(patches.shape[1])
    if grid[0] == grid[1] == size:
        return stored
    scale = [(side + OFFSET) / size for side in grid]
    square = patches.float().unflatten(1, (size, size)).permute(0, 3, 1, 2)
    resampled = F.interpolate(square, scale_factor=scale, mode="bicubic")
    return torch.cat([special, resampled.flatten(2).mT.to(stored.dtype)], 1)


class HubVisionTransformer(VisionTransformer):
    """timm's VisionTransformer, of any input size, which resamples its positions by the hub's rule.

    The stored positions stay as they are. It is made of a VisionTransformer by `resample_as_hub`.
    """

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Add positions to patches [B, h, w, C], and put the special tokens before them."""
        prefix = 0 if self.no_embed_class else self.num_prefix_tokens
        positions = hub_positions(self.pos_embed, prefix, (x.shape[1], x.shape[2]))
        tokens = x.flatten(1, 2)
        if self.no_embed_class:
            tokens = tokens + positions
        special = [token.expand(x.shape[0], -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        tokens = torch.cat([*special, tokens], 1)
        embedded: Tensor = self.pos_drop(tokens if self.no_embed_class else tokens + positions)
        return embedded


def resample_as_hub(model: nn.Module) -> None:
    """Let a VisionTransformer of timm take every input size, and resample its positions by the hub's rule."""
    vit: VisionTransformer = model
    vit.__class__ = HubVisionTransformer
    vit.dynamic_img_size = True
    vit.patch_embed.strict_img_size = False
    vit.patch_embed.flatten = False
    vit.patch_embed.output_fmt = Format.NHWC
