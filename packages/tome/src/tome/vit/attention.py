"""Proportional attention: a token that stands for s patches counts s times (ToMe paper, section 3.2).

Adding log(s) to the logits of a key is the same as repeating the key s times. Both implementations here use torch's
fused kernels.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_core.utils.devices import no_autocast
from tome.matching import GRAIN_SIZE


def proportional(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    size: Tensor | None = None,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    how: bool | Literal["mask", "channel"] = True,
) -> Tensor:
    """Compute softmax attention with log(size) added to the logits of each key.

    Args:
        q: [B, H, n, D], the queries.
        k: [B, H, n, D], the keys.
        v: [B, H, n, D], the values.
        size: [B, n, 1], the number of patches of each token; None for one each.
        bias: A bias added to the logits too; it broadcasts to [B, H, n, n].
        dropout: Dropout rate of the attention weights.
        how: "mask" passes the logarithms to the kernel as an additive mask. "channel" appends them to the keys as one
            more channel, which needs no mask and so allows the flash kernels of GPUs. True is "mask", which is faster
            on CPUs.

    Returns:
        [B, H, n, D].
    """
    if size is None:
        mask = bias
    elif how == "channel" and bias is None:
        return _with_channel(q, k, v, size, dropout)
    else:
        mask = log(size).transpose(-2, -1)[:, None]  # not mT, which the older exporter of ONNX lacks
        mask = (mask if bias is None else mask + bias).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


def _with_channel(q: Tensor, k: Tensor, v: Tensor, size: Tensor, dropout: float) -> Tensor:
    """Attend with the logarithms as more channels of the keys.

    In half precision there are two such channels: the second holds the rounding error of the first.
    """
    dim = q.shape[-1]
    scale = dim**-0.5
    logarithms = log(size)[:, None].expand(-1, k.shape[1], -1, -1)
    parts = [logarithms.to(k.dtype)]
    if k.dtype in (torch.float16, torch.bfloat16):
        parts.append((logarithms - parts[0]).to(k.dtype))
    surplus = -(dim + len(parts)) % 8  # the kernels need multiples of 8
    ones = torch.full_like(q[..., :1], 1 / scale)
    q = F.pad(torch.cat([q, *[ones] * len(parts)], -1), (0, surplus))
    k = F.pad(torch.cat([k, *parts], -1), (0, surplus))
    v = F.pad(v, (0, q.shape[-1] - dim))
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)[..., :dim]


def log(size: Tensor) -> Tensor:
    """Return the logarithms of sizes. MKL's ``log`` opens a parallel region for a hundred numbers, ``log1p`` none."""
    return (size - 1).log1p()


def mean_over_heads(key: Tensor) -> Tensor:
    """[B, H, n, D] -> [B, n, D].

    torch's mean of many numbers opens three parallel regions on the CPU (zeros, sums, a division), a product only one.
    """
    batch, heads, tokens, dim = key.shape
    if not _is_large(key) or torch.compiler.is_compiling():
        return key.mean(1)
    with no_autocast(key.device.type):
        if key.is_contiguous():
            weights = key.new_full((batch, 1, heads), 1 / heads)
            return torch.bmm(weights, key.flatten(2)).reshape(batch, tokens, dim)
        weights = key.new_full((1, 1, heads), 1 / heads).expand(batch * tokens, -1, -1)
        return torch.bmm(weights, key.transpose(1, 2).flatten(0, 1)).reshape(batch, tokens, dim)


def _is_large(key: Tensor) -> bool:
    """Return whether a mean over the heads would open more than one region."""
    single = key.device.type == "cpu" and key.dtype in (torch.float32, torch.float64)
    return single and key.numel() > key.shape[1] * GRAIN_SIZE
