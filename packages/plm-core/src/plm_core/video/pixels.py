"""The pixels of a clip as a model takes them: resized, cropped and normalised.

Shapes: B clips, T frames, H, W pixels; pixels are RGB.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_core.hookspecs import Input


def cover(picture: Tensor, size: Sequence[int], zoom: float) -> Tensor:
    """Resize uint8 [H, W, 3] to the smallest uint8 [3, h, w] of the same aspect ratio that covers ``zoom * size``."""
    height, width = picture.shape[:2]
    scale = zoom * max(size[0] / height, size[1] / width)
    target = (max(round(height * scale), size[0]), max(round(width * scale), size[1]))
    pixels = picture.movedim(-1, 0)[None]
    return F.interpolate(pixels, size=target, mode="bicubic", align_corners=False, antialias=True)[0]


def crop(pictures: Tensor, size: Sequence[int], share: float) -> Tensor:
    """Crop [..., h, w] to ``size``: at a share of the slack along the axis with more of it, centred on the other."""
    slack = [side - target for side, target in zip(pictures.shape[-2:], size, strict=True)]
    along = slack.index(max(slack))
    top, left = (round(s * (share if axis == along else 0.5)) for axis, s in enumerate(slack))
    return pictures[..., top : top + size[0], left : left + size[1]]


def normalise(clips: Tensor, spec: Input) -> Tensor:
    """Return clips, uint8 [B, T, 3, H, W], as a model takes them, float32 [B, 3, T, H, W]."""
    mean, std = (torch.tensor(values).view(-1, 1, 1, 1) for values in (spec.mean, spec.std))
    return (clips.transpose(1, 2).float() / 255 - mean) / std
