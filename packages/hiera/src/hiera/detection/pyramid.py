"""The feature pyramids that connect a trunk to a detector.

Shapes: B batch, C channels, H, W rows and columns.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from hiera.hieradet import HieraDet
from hiera.vitdet import ViTDet
from plm_core import InputError


class Pyramid(nn.Module):
    """A HieraDet with the standard feature pyramid (arXiv 1612.03144) and a LayerNorm after each convolution.

    Args:
        trunk: The trunk, whose maps go from high to low resolution.
        channels: Number of channels of each level.
    """

    def __init__(self, trunk: HieraDet, channels: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.fpn = FeaturePyramidNetwork(trunk.channels, channels, LastLevelMaxPool(), LayerNorm2d)
        self.out_channels = channels
        self.strides = [*trunk.strides, 2 * trunk.strides[-1]]
        self.multiple = trunk.multiple

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 3, height, width] -> levels "0", "1", ... and "pool", [B, channels, H, W] each."""
        return self.fpn({str(level): m for level, m in enumerate(self.trunk(x))})


class SimplePyramid(nn.Module):
    """A ViTDet with its simple feature pyramid, whose levels all come from the last map (ViTDet, section 3).

    Args:
        trunk: The trunk, which has a single map.
        channels: Number of channels of each level.
    """

    def __init__(self, trunk: ViTDet, channels: int) -> None:
        super().__init__()
        dim, patch = trunk.pos_embed.shape[-1], trunk.patch_size
        if patch % 4:
            raise InputError(f"trunk has patch_size {patch}; the simple pyramid needs a multiple of 4")
        self.trunk = trunk
        half, quarter = dim // 2, dim // 4
        double = nn.ConvTranspose2d(dim, half, 2, 2)
        quadruple = nn.Sequential(
            nn.ConvTranspose2d(dim, half, 2, 2), LayerNorm2d(half), nn.GELU(), nn.ConvTranspose2d(half, quarter, 2, 2)
        )
        norm = partial(Conv2dNormActivation, norm_layer=LayerNorm2d, activation_layer=None)
        self.levels = nn.ModuleList(
            nn.Sequential(scale, norm(width, channels, 1), norm(channels, channels, 3))
            for scale, width in [
                (quadruple, quarter),
                (double, half),
                (nn.Identity(), dim),
                (nn.MaxPool2d(2), dim),
            ]
        )
        self.pool = nn.MaxPool2d(1, 2)
        self.out_channels = channels
        self.strides = [patch // 4, patch // 2, patch, 2 * patch, 4 * patch]
        self.multiple = 2 * patch

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[B, 3, height, width] -> levels "0" to "3" and "pool", [B, channels, H, W] each."""
        x = self.trunk(x)
        levels = OrderedDict((str(i), level(x)) for i, level in enumerate(self.levels))
        levels["pool"] = self.pool(levels["3"])
        return levels
