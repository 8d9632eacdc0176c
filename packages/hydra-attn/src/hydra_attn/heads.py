"""Linear attention with any number of heads, of which Hydra has the most and costs the least (paper, figure 2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hydra_attn.arguments import check_queries, check_tokens
from plm_core.errors import InputError
from plm_core.utils.devices import no_autocast


def linear_attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """Compute attention by the cosine kernel, without a softmax: q_h (k_h^T v_h) for each head h.

    Queries and keys are divided by their norms, which here are those of a head. With one head per feature only the
    signs of q and k would be left, so Hydra divides by the norms over all features, see `hydra_attn.hydra`.

    Args:
        q: [B, T, D].
        k: [B, T, D].
        v: [B, T, D].
        num_heads: H, which divides D. The cost is 2 T D^2 / H multiply-adds.

    Returns:
        [B, T, D], of the dtype of ``q``.

    Raises:
        InputError: Shapes, dtypes or devices do not fit, or H does not divide D.
    """
    check_queries(q, k)
    check_tokens(k, v, None, None)
    if not isinstance(num_heads, int) or num_heads < 1 or q.shape[-1] % num_heads:
        raise InputError(f"num_heads is {num_heads!r}; a divisor of {q.shape[-1]}, the number of features, is expected")
    dtype = torch.promote_types(q.dtype, torch.float32)
    heads = (x.to(dtype).unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    queries, keys, values = heads
    with no_autocast(q.device.type):  # which would sum in half precision
        y = F.normalize(queries, dim=-1) @ (F.normalize(keys, dim=-1).transpose(-1, -2) @ values)
    return y.transpose(1, 2).flatten(2).to(q.dtype)
