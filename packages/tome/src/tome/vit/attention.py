"""Proportional attention: a token that stands for s patches counts s times (ToMe paper, section 3.2).

Adding log(size) to a key's logits is the same as repeating the key. Both ways here keep torch's fused kernels.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def proportional(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    size: Tensor | None = None,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    how: bool | Literal["mask", "channel"] = True,
) -> Tensor:
    """Softmax attention with log(size) added to the logits of each key.

    Args:
        q: [B, H, n, D], and so are k and v.
        k: Keys.
        v: Values.
        size: [B, n, 1]; None for one each.
        bias: Added to the logits too, broadcasts to [B, H, n, n].
        dropout: Of attention weights.
        how: "mask" gives the logarithms to the kernel as an additive mask; "channel" as one more channel of the keys,
            which needs no mask and so leaves the flash kernels of GPUs possible. True is "mask", the faster on CPUs.

    Returns:
        [B, H, n, D].
    """
    if size is None:
        mask = bias
    elif how == "channel" and bias is None:
        return _with_channel(q, k, v, size, dropout)
    else:
        mask = size.log().mT[:, None]
        mask = (mask if bias is None else mask + bias).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


def _with_channel(q: Tensor, k: Tensor, v: Tensor, size: Tensor, dropout: float) -> Tensor:
    """The logarithms as channels: of half precision in two parts, the second what rounding left of the first."""
    dim = q.shape[-1]
    scale = dim**-0.5
    log = size.log()[:, None].expand(-1, k.shape[1], -1, -1)
    parts = [log.to(k.dtype)]
    if k.dtype in (torch.float16, torch.bfloat16):
        parts.append((log - parts[0]).to(k.dtype))
    surplus = -(dim + len(parts)) % 8  # kernels want multiples of 8
    ones = torch.full_like(q[..., :1], 1 / scale)
    q = F.pad(torch.cat([q, *[ones] * len(parts)], -1), (0, surplus))
    k = F.pad(torch.cat([k, *parts], -1), (0, surplus))
    v = F.pad(v, (0, q.shape[-1] - dim))
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)[..., :dim]
