"""SAM 2's image encoder: a trunk with a feature pyramid (SAM 2, section 8).

Shapes: B batch, C channels, H, W rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiera.arguments import check_arguments
from hiera.hieradet import HieraDet
from plm_core import InputError


class FpnNeck(nn.Module):
    """The feature pyramid of SAM 2: a lateral convolution per level and top-down additions on some levels.

    Args:
        d_model: Number of output channels.
        backbone_channel_list: Channels of the maps from the LOWEST resolution to the highest, as SAM 2 lists them.
        levels: Levels (0 has the highest resolution) to which the upsampled map of the next lower resolution is added.
            None for all levels.
        interp: Interpolation mode of that upsampling.
        fuse: ``sum`` to add the two maps, ``avg`` to average them.
        scalp: Number of lowest-resolution maps to leave out of the result.

    Raises:
        InputError: An argument is not allowed.
    """

    def __init__(
        self,
        d_model: int,
        backbone_channel_list: Sequence[int],
        levels: Sequence[int] | None = None,
        interp: str = "nearest",
        fuse: str = "sum",
        scalp: int = 0,
        **dd: Any,
    ) -> None:
        check_arguments(locals())
        super().__init__()
        if scalp >= len(backbone_channel_list):
            raise InputError(f"scalp {scalp} leaves none of {len(backbone_channel_list)} maps")
        self.d_model = d_model
        self.convs = nn.ModuleList(_Lateral(channels, d_model, **dd) for channels in backbone_channel_list)
        self.levels = set(range(len(self.convs))) if levels is None else set(levels)
        self.interp = interp
        self.fuse = fuse
        self.scalp = scalp

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Turn maps, from high to low resolution, into (features, their sine positions), each [B, d_model, H, W]."""
        features: list[Tensor] = []
        lower: Tensor | None = None
        for level in range(len(maps) - 1, -1, -1):
            lateral = self.convs[len(maps) - 1 - level](maps[level])
            if level in self.levels and lower is not None:
                # The original upsamples in float32 because its maps may be in half precision.
                up = F.interpolate(lower.float(), scale_factor=2, mode=self.interp)
                lateral = lateral + up.to(lateral.dtype)
                lateral = lateral / 2 if self.fuse == "avg" else lateral
            lower = lateral
            features.insert(0, lateral)
        features = features[: len(features) - self.scalp]
        return features, [sine_positions(f) for f in features]


class _Lateral(nn.Module):
    """A 1x1 convolution under the name it has in SAM 2's checkpoints."""

    def __init__(self, channels: int, d_model: int, **dd: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, d_model, 1, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class HieraDetFpn(nn.Module):
    """The trunk and the feature pyramid of SAM 2's image encoder.

    Args:
        trunk: Model that computes the maps.
        neck: Feature pyramid on these maps.
    """

    def __init__(self, trunk: HieraDet, neck: FpnNeck) -> None:
        super().__init__()
        self.trunk = trunk
        self.neck = neck

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """[B, in_chans, height, width] -> (features, their sine positions), from high to low resolution."""
        return self.neck(self.trunk(x))


def sine_positions(x: Tensor, temperature: float = 10000.0) -> Tensor:
    """Encode the positions of a map [B, C, H, W] as sines: C / 2 channels for y, then C / 2 for x, scaled to 2 pi."""
    batch, channels, height, width = x.shape
    half = channels // 2
    index = torch.arange(half, device=x.device, dtype=torch.float32)
    frequency = temperature ** (2 * (index // 2) / half)

    def axis(size: int) -> Tensor:
        position = torch.arange(1, size + 1, device=x.device, dtype=torch.float32) / (size + 1e-6) * 2 * math.pi
        angle = position[:, None] / frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], 2).flatten(1)

    y = axis(height)[:, None].expand(height, width, half)
    x_ = axis(width)[None].expand(height, width, half)
    return torch.cat([y, x_], -1).permute(2, 0, 1).expand(batch, -1, -1, -1).to(x.dtype)
