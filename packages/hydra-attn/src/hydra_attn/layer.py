"""The layer: timm's attention with its weights, and Hydra in place of the softmax."""

from __future__ import annotations

from typing import Any

from timm.layers import Attention
from torch import Tensor

from hydra_attn.attention import KERNELS, hydra
from plm_core.errors import InputError, NotSupported, UnknownName
from plm_core.utils.near_misses import miss


class HydraAttention(Attention):
    """Self-attention by Hydra: [B, T, C] -> [B, T, C], with the parameters and state-dict keys of timm's Attention.

    Norms of queries and keys, the norm before the projection and the gate are those of timm. The number of heads only
    gives the size of the norms of queries and keys: each feature is a head.

    Args:
        dim: C.
        num_heads: See above.
        kernel: A name of `hydra_attn.KERNELS`.
        attn_drop: Must be 0, as there is no attention map to drop from; ``proj_drop`` works.
        **kwargs: The other arguments of ``timm.layers.Attention``.

    Raises:
        InputError: ``attn_drop`` is not 0.
        UnknownName: There is no such kernel.
    """

    def __init__(
        self, dim: int, num_heads: int = 8, *, kernel: str = "cosine", attn_drop: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(dim, num_heads, **kwargs)
        if attn_drop:
            raise InputError(f"attn_drop is {attn_drop!r}; Hydra has no attention map, so it must be 0: use proj_drop")
        if kernel not in KERNELS:
            raise UnknownName(miss("kernel", kernel, KERNELS))
        self.kernel = kernel

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend to all tokens, or with ``is_causal`` to those before.

        Args:
            x: [B, T, C].
            attn_mask: A mask of tokens, the same for all queries: bool [B or 1, 1, 1, T], True for tokens that count.
            is_causal: Whether each token sees only itself and the tokens before it.

        Raises:
            NotSupported: The mask is another for each query, or is added to logits, which Hydra has not.
        """
        gate = None if self.gate is None else self.gate(x).sigmoid()
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(2)
        q, k, v = (part.flatten(2) for part in (self.q_norm(q), self.k_norm(k), v))
        y = self.norm(hydra(q, k, v, self.kernel, _token_mask(attn_mask, k), is_causal))
        return self.proj_drop(self.proj(y if gate is None else y * gate))


def _token_mask(mask: Tensor | None, k: Tensor) -> Tensor | None:
    if mask is None:
        return None
    batch_size, tokens, _ = k.shape
    if mask.is_floating_point() or mask.ndim != 4 or mask.shape[1:] != (1, 1, tokens):
        raise NotSupported(
            f"attn_mask is {mask.dtype} {list(mask.shape)}; Hydra takes a mask of tokens, bool [B, 1, 1, {tokens}], "
            "since each query gets the same sum"
        )
    return mask[:, 0, 0].expand(batch_size, -1)
