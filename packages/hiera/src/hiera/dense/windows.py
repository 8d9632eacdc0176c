"""Attention windows on a grid of tokens, cut out for each block, and the block that attends in them.

Shapes: B batch, H, W tokens, C channels, N windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from hiera.layers import PreNormBlock
from hiera.tokens import channels_first, channels_last


class WindowBlock(PreNormBlock):
    """A block on a grid, with attention inside windows or over the whole grid; it may pool its queries.

    Args:
        dim: Number of input channels.
        dim_out: Number of output channels.
        attention: Function that builds the attention layer, which maps [N, H, W, dim] to
            [N, H / q_stride, W / q_stride, dim_out].
        window: Side of the attention windows in tokens; 0 for global attention.
        q_stride: Pooling stride per dimension; 1 for no pooling.
        **kwargs: Further keyword arguments of `PreNormBlock`.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        attention: Callable[..., nn.Module],
        window: int,
        q_stride: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(dim, dim_out, attention, **kwargs)
        self.window = window
        self.q_stride = q_stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, dim] -> [B, H / q_stride, W / q_stride, dim_out]."""
        normed = self.norm1(x)
        residual = x if self.proj is None else max_pool(self.proj(normed), self.q_stride)
        return self.mlp_residual(residual + self.attention_branch(self._attend(normed, residual.shape[1:3])))

    def _attend(self, x: Tensor, size: Sequence[int]) -> Tensor:
        if self.window == 0:
            return self.attn(x)
        y = self.attn(partition(x, self.window))
        return unpartition(y, self.window // self.q_stride, x.shape[0], size)


def partition(x: Tensor, window: int) -> Tensor:
    """[B, H, W, C] -> [B * windows, window, window, C], padded with zeros at the bottom and right.

    As in the original models, padding takes part in attention: its keys and values are the projection's bias.
    """
    height, width, channels = x.shape[1:]
    rows, columns = _windows(height, window), _windows(width, window)
    x = F.pad(x, (0, 0, 0, columns * window - width, 0, rows * window - height))
    return x.reshape(-1, rows, window, columns, window, channels).transpose(2, 3).flatten(0, 2)


def _windows(side: int, window: int) -> int:
    """Return the number of windows that cover a side. ONNX rounds quotients of negative numbers the other way."""
    return (side + window - 1) // window


def unpartition(x: Tensor, window: int, batch: int, size: Sequence[int]) -> Tensor:
    """Invert `partition` for a grid of ``size`` (height, width) and drop the padding."""
    height, width = size
    rows, columns = _windows(height, window), _windows(width, window)
    x = x.view(batch, rows, columns, window, window, -1).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, :height, :width]


def max_pool(x: Tensor, stride: int) -> Tensor:
    """Max-pool a grid [B, H, W, C]; rows and columns at the end that fill no window are dropped."""
    if stride == 1:
        return x
    return channels_last(F.max_pool2d(channels_first(x), stride, stride))
