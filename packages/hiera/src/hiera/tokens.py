"""The token order that makes Hiera's pooling and local attention plain reshapes (Hiera paper, section 3).

A mask unit is the square of tokens that becomes one token of the last stage. Its side is ``stride ** steps`` in each
dimension. `unroll` arranges the tokens as [B, U, T, C]: U mask units in row-major order, and T tokens in each. Write a
token's coordinates inside its unit in base ``stride``: tokens are ordered by these digits, with the LOWEST digit
outermost. Then

- attention inside mask units is attention over T, with no windows to cut out,
- max pooling by ``stride`` is the maximum over the outermost digit: [B, U, s, T/s, C] -> [B, U, T/s, C],
- dropping mask units (MAE) is indexing U.

The original stores the same tokens as [B, T*U, C] with the mask units innermost; see `official_order`.

Shapes: B batch, U mask units, T tokens per unit, C channels. A grid is (height, width), (time, height, width) or
(length,).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor


def unroll(x: Tensor, stride: Sequence[int], steps: int) -> Tensor:
    """[B, *grid, C] -> [B, U, T, C]; each side of the grid must be a multiple of ``stride ** steps``."""
    batch, *grid, channels = x.shape
    dims = len(stride)
    shape = [size for g, s in zip(grid, stride, strict=True) for size in (g // s**steps, *[s] * steps)]
    unit = [1 + i * (steps + 1) for i in range(dims)]
    digits = [u + steps - k for k in range(steps) for u in unit]  # k = 0 is the lowest digit
    x = x.reshape(batch, *shape, channels).permute(0, *unit, *digits, 1 + len(shape))
    return x.reshape(batch, math.prod(shape[:: steps + 1]), math.prod(stride) ** steps, channels)


def reroll(x: Tensor, units: Sequence[int], stride: Sequence[int], steps: int) -> Tensor:
    """[B, U, T, C] -> [B, *grid, C], the inverse of `unroll`.

    Args:
        x: Tokens after any number of poolings.
        units: Grid of mask units; its product is U.
        stride: Pooling stride per dimension, as for `unroll`.
        steps: Number of poolings still possible: T = prod(stride) ** steps.
    """
    batch, channels, dims = x.shape[0], x.shape[-1], len(stride)
    x = x.reshape(batch, *units, *list(stride) * steps, channels)
    order = [axis for i in range(dims) for axis in (1 + i, *(1 + dims + k * dims + i for k in reversed(range(steps))))]
    grid = [u * s**steps for u, s in zip(units, stride, strict=True)]
    return x.permute(0, *order, x.ndim - 1).reshape(batch, *grid, channels)


def reroll_units(x: Tensor, stride: Sequence[int], steps: int) -> Tensor:
    """[B, U, T, C] -> [B, U, *unit grid, C]: each mask unit in spatial order, also when some units were dropped."""
    batch, units = x.shape[:2]
    rolled = reroll(x.flatten(0, 1)[:, None], [1] * len(stride), stride, steps)
    return rolled.reshape(batch, units, *rolled.shape[1:])


def pool(x: Tensor, stride: int) -> Tensor:
    """Max-pool by the flat ``stride`` (product over dimensions): [B, U, T, C] -> [B, U, T/stride, C]."""
    return x if stride == 1 else x.unflatten(2, (stride, -1)).amax(2)


def pool_mean(x: Tensor, stride: int) -> Tensor:
    """Mean-pool by the flat ``stride``: [B, U, T, C] -> [B, U, T/stride, C]."""
    return x if stride == 1 else x.unflatten(2, (stride, -1)).mean(2)


# ONNX's Transpose takes no negative axes, but torch's exporter by tracing writes those of movedim and permute as is.
def channels_last(x: Tensor) -> Tensor:
    """[B, C, *grid] -> [B, *grid, C]."""
    return x.permute(0, *range(2, x.ndim), 1)


def channels_first(x: Tensor) -> Tensor:
    """[B, *grid, C] -> [B, C, *grid]."""
    return x.permute(0, x.ndim - 1, *range(1, x.ndim - 1))


def is_fixed(sizes: Iterable[Any]) -> bool:
    """Return whether sizes are plain numbers, and not the unknowns of an export with dynamic sizes."""
    return all(type(size) is int for size in sizes)


def official_order(x: Tensor) -> Tensor:
    """[B, U, T, C] -> [B, T*U, C], the token order of the original's outputs."""
    return x.transpose(1, 2).flatten(1, 2)
