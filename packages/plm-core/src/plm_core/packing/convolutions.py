"""A convolution that computes with its packed weight where that is faster.

The packed way writes channels last in memory, whatever the order of its input. The convolutions and norms after it go
on in that order, which is why most of the gain is there: neither weights nor inputs are reordered in each call.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from plm_core.packing.layers import Packed
from plm_core.packing.operators import convolve, pack_convolution
from plm_core.packing.tuning import Example, bucket

MOST = 1.0
"""The share of the time for which a weight is packed. A layer that gains nothing still keeps the order for the next."""
MOST_IMAGES = 8
"""More images are not measured: the shares of the time stay the same."""
MOST_SIZES = 16
"""Further sizes of images are computed as the last one that was measured."""


class PackedConv2d(Packed):
    """A mixin for the class of a convolution of images: [B, C_in, H, W] -> [B, C_out, H', W'], channels last."""

    def plm_example(self, x: Tensor) -> Example | None:
        """Return a batch of the size of ``x``; None for an input without a batch, or an empty one.

        A packed weight suits one size best, and with several threads a batch of one other than more. So each size is
        measured, up to `MOST_SIZES`, with batch sizes that are powers of two.
        """
        layer: Any = self
        if x.ndim != 4 or not x.numel() or x.shape[1] != layer.in_channels or not is_plain(layer):
            return None  # the plain way knows what to say
        example, ways = Example((bucket(x.shape[0], MOST_IMAGES), *x.shape[1:]), MOST), self.plm_packing.ways
        return example if example in ways or len(ways) < MOST_SIZES else next(reversed(ways))

    def plm_pack(self, weight: Tensor, example: Example) -> Tensor:
        """Return a packed weight."""
        return pack_convolution(weight, example.shape, *_geometry(self))

    def plm_plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the layer with a plain weight."""
        padding, stride, dilation, groups = _geometry(self)
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    def plm_multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the layer with a packed weight."""
        return convolve(x, weight, bias, *_geometry(self))


def is_plain(layer: nn.Conv2d) -> bool:
    """Return whether a convolution pads by zeros, and by numbers of pixels."""
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _geometry(layer: Any) -> tuple[list[int], list[int], list[int], int]:
    return list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups
