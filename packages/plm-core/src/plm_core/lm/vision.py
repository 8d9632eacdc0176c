"""The eyes of a language model: a vision tower, and the projector that turns its features into visual tokens.

Shapes: B chunks of pixels, C channels of the tower, N patches (h x w of them), D width of the decoder, n visual tokens.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plm_core.errors import InputError, NotSupported
from plm_core.lm.reduction import merge_tokens

AT_ONCE = 2
"""Chunks that a tower sees at a time on the CPU where no gradients are needed. More do not fit the caches."""


class Projector(nn.Module):
    """The MLP between a vision tower and a decoder, with pooling (arXiv 2504.13180, section 3).

    The paper pools after the second layer. A mean of linear outputs is the linear output of a mean, so pooling before
    that layer gives the same tokens, with a quarter of its work.

    Args:
        width: C.
        dim: D.
        pooling_ratio: Patches per visual token along each side. A rest of the grid makes windows overlap.
        device: Device of the parameters.
        dtype: Data type of the parameters.
    """

    def __init__(self, width: int, dim: int, pooling_ratio: int = 2, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        if pooling_ratio < 1:
            raise InputError(f"pooling_ratio is {pooling_ratio}; a whole number from 1 is expected")
        self.pooling_ratio = pooling_ratio
        self.linear_1 = nn.Linear(width, dim, device=device, dtype=dtype)
        self.linear_2 = nn.Linear(dim, dim, device=device, dtype=dtype)
        if not self.linear_1.weight.is_meta:
            self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise weights and biases alike, by a normal distribution that is cut off at three deviations."""
        for layer in (self.linear_1, self.linear_2):
            std = layer.out_features**-0.5
            for parameter in (layer.weight, layer.bias):
                nn.init.trunc_normal_(parameter, std=std, a=-3 * std, b=3 * std)

    def forward(self, features: Tensor) -> Tensor:
        """Project the features of a square grid: [B, N, C] -> [B, n, D].

        Raises:
            InputError: The grid is not square, or smaller than a window.
        """
        hidden = F.gelu(self.linear_1(features))
        return self.linear_2(pool(hidden, self.pooling_ratio))


def pool(tokens: Tensor, ratio: int) -> Tensor:
    """Average the tokens of a square grid over windows: [B, N, D] -> [B, n, D].

    Row i of the o = h // ratio output rows averages the input rows from floor(i * h / o) to below
    ceil((i + 1) * h / o), and columns likewise.

    Raises:
        InputError: The grid is not square, or smaller than a window.
    """
    side = math.isqrt(tokens.shape[1])
    if side * side != tokens.shape[1]:
        raise InputError(f"the tower gives {tokens.shape[1]} tokens per chunk, which are no square grid")
    if side < ratio:
        raise InputError(f"pooling_ratio {ratio} is larger than the grid of {side} x {side} patches")
    if ratio == 1:
        return tokens
    if side % ratio == 0:
        windows = tokens.unflatten(1, (side // ratio, ratio, side // ratio, ratio))
        return windows.mean((2, 4)).flatten(1, 2)
    maps = tokens.transpose(1, 2).unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(maps, side // ratio).flatten(2).transpose(1, 2)


class VisionEncoder(nn.Module):
    """A vision tower and a projector.

    Args:
        tower: A vision transformer with ``forward_features``, such as PE-Lang, or another model with
            ``forward_intermediates``, of timm or of a plug-in.
        dim: D, the width of the decoder.
        pooling_ratio: See `Projector`.

    Attributes:
        width: C.
        keep: The visual tokens of a chunk that are left after `plm_core.lm.reduction.merge_tokens`; None for all.

    Raises:
        NotSupported: The tower gives no feature maps.
    """

    keep: int | None = None

    def __init__(self, tower: nn.Module, dim: int, pooling_ratio: int = 2) -> None:
        super().__init__()
        if not hasattr(tower, "forward_intermediates") or not hasattr(tower, "feature_info"):
            raise NotSupported(
                f"tower is a {type(tower).__name__} without forward_intermediates and feature_info, by which models of "
                "timm and of plug-ins give feature maps"
            )
        self.tower: Any = tower
        facts: Any = tower.feature_info
        self.width: int = (facts[-1] if isinstance(facts, list) else facts.get_dicts()[-1])["num_chs"]
        weight = next(tower.parameters())
        self.projector = Projector(self.width, dim, pooling_ratio, weight.device, weight.dtype)

    def tokens_of(self, size: int) -> int:
        """Return the number of visual tokens of a chunk with sides of so many pixels."""
        facts: Any = self.tower.feature_info
        stride: int = (facts[-1] if isinstance(facts, list) else facts.get_dicts()[-1])["reduction"]
        count = int((size // stride // self.projector.pooling_ratio) ** 2)
        return count if self.keep is None else min(self.keep, count)

    def features(self, images: Tensor) -> Tensor:
        """Return the features of the last block in row-major order, without class tokens: [B, 3, H, W] -> [B, N, C]."""
        prefix = getattr(self.tower, "num_prefix_tokens", None)
        if prefix is not None:
            tokens: Tensor = self.tower.forward_features(images)
            return tokens[:, prefix:]
        maps: list[Tensor] = self.tower.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
        return maps[-1].flatten(2).transpose(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Return the visual tokens of chunks: [B, 3, H, W] -> [B, n, D], or [B, keep, D]."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or images.device.type != "cpu":
            return self._tokens(images)
        return torch.cat([self._tokens(some) for some in images.split(AT_ONCE)])

    def _tokens(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.projector(self.features(images))
        return tokens if self.keep is None else merge_tokens(tokens, self.keep)
