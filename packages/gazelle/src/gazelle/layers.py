"""The parts of the decoder: positions, transformer blocks, and the head that draws the heatmap.

Shapes: P people, N tokens, D width of the decoder, h x w the grid of patches.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from plm_core import InputError

NUM_HEADS = 8
"""Attention heads, whatever the width."""
DROP_PATH = 0.1
"""The probability that a branch is left out in training, the same in every block."""


def sine_positions(dim: int, grid: tuple[int, int]) -> Tensor:
    """Return sine position embeddings of a grid, float32 [D, h, w].

    The first half of the channels is for the column, the second for the row, with sine and cosine in turns.

    Args:
        dim: Number of channels, divisible by 4.
        grid: Height and width.

    Raises:
        InputError: ``dim`` is not divisible by 4.
    """
    if dim % 4:
        raise InputError(f"dim is {dim}; a multiple of 4 is expected")
    half = dim // 2
    frequencies = torch.exp(torch.arange(0, half, 2, dtype=torch.float32) * -(math.log(10000.0) / half))
    rows, columns = (torch.arange(size, dtype=torch.float32) for size in grid)
    x, y = (
        torch.stack([angles.sin(), angles.cos()], 1).flatten(0, 1)
        for angles in (frequencies[:, None] * columns, frequencies[:, None] * rows)
    )
    return torch.cat([x[:, None, :].expand(half, *grid), y[:, :, None].expand(half, *grid)])


def block(dim: int, eps: float) -> nn.Module:
    """Return a transformer block: pre-norm, queries, keys and values without a bias, an MLP of four times the width.

    Args:
        dim: Width.
        eps: What LayerNorm adds to the variance. The released weights were trained with 1e-5, where timm's default has
            become 1e-6.
    """
    made: nn.Module = Block(
        dim, NUM_HEADS, mlp_ratio=4, qkv_bias=False, drop_path=DROP_PATH, norm_layer=partial(nn.LayerNorm, eps=eps)
    )
    return made


def before_last(blocks: nn.Sequential, tokens: Tensor) -> tuple[Tensor, Tensor, nn.Linear]:
    """Run blocks up to the last product, in eval mode.

    Returns:
        The tokens [P, N, D] to which the last MLP is to be added, its hidden features [P, N, 4 D], and its last layer.
    """
    *before, final = blocks
    for module in before:
        tokens = module(tokens)
    last: Any = final
    tokens = tokens + last.attn(last.norm1(tokens))
    return tokens, last.mlp.act(last.mlp.fc1(last.norm2(tokens))), last.mlp.fc2


class HeatmapHead(nn.Sequential):
    """A transposed convolution and a projection to one channel: tokens [P, h * w, D] -> [P, h * w, 4], see `draw`.

    The parameters are the original's. There is no nonlinearity between the two, so they are one product with D x 4
    weights, which is what is computed.

    Args:
        dim: Width of the tokens.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(nn.ConvTranspose2d(dim, dim, 2, 2), nn.Conv2d(dim, 1, 1, bias=False))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return the weights and the bias of the one product, [4, D] and [1]."""
        up: Any = self[0]
        projection: Any = self[1]
        down = projection.weight[0, :, 0, 0]
        return torch.einsum("cokl,o->klc", up.weight, down).flatten(0, 1), (up.bias @ down)[None]

    def after(self, tokens: Tensor, hidden: Tensor, layer: nn.Linear) -> Tensor:
        """Return what `forward` makes of ``tokens + layer(hidden)``, by a product of the weights instead of the tokens.

        The sum is of no other use, and the product with four outputs takes a hundredth of that with D.
        """
        weight, bias = self.folded()
        points = nn.functional.linear(tokens, weight, weight @ layer.bias + bias)
        return points + nn.functional.linear(hidden, weight @ layer.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Return the logits of the four points that each patch is drawn as."""
        weight, bias = self.folded()
        return nn.functional.linear(input, weight, bias.expand(4))


def draw(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """Put the four points of each patch beside and below one another: [P, h * w, 4] -> [P, 2h, 2w]."""
    h, w = grid
    return values.reshape(-1, h, w, 2, 2).transpose(2, 3).reshape(-1, 2 * h, 2 * w)
