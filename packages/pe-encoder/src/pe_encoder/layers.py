"""The layers of both towers: attention with rotary positions or a causal mask, the block, and the attention pool.

Shapes: B batch, N tokens, C channels, H heads, D channels per head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerScale, Mlp
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pe_encoder.rope import rotate

EPS = 1e-5
"""The epsilon of every norm; timm's vision transformers have 1e-6."""


class Attention(nn.Module):
    """A layer of self-attention.

    Args:
        dim: C, the number of channels.
        num_heads: H, the number of heads.
        causal: Whether a token attends only to itself and to those before it.
        **dd: Device and dtype of the parameters.
    """

    def __init__(self, dim: int, num_heads: int, causal: bool = False, **dd: Any) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.causal = causal
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def project(self, x: Tensor, rope: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Project tokens [B, N, C] to q, k and v, each [B, H, N, D], with q and k rotated.

        Args:
            x: Tokens.
            rope: Rotations (see `pe_encoder.rope`): float32 [N, D], or [B, 1, N, D] with different ones for each image.
        """
        qkv = self.qkv(x).view(x.shape[0], x.shape[1], 3, self.num_heads, x.shape[2] // self.num_heads)
        if rope is None:
            q, k, v = qkv.transpose(1, 3).unbind(2)
            return q, k, v
        table = rope[:, None, None] if rope.ndim == 2 else rope.transpose(1, 2)[:, :, None]
        q, k = rotate(qkv[:, :, :2], table).transpose(1, 3).unbind(2)
        return q, k, qkv[:, :, 2].transpose(1, 2)

    def forward(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        q, k, v = self.project(x, rope)
        return self.join(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal))

    def join(self, attended: Tensor) -> Tensor:
        """Join the heads and project them: [B, H, N, D] -> [B, N, C]."""
        return self.proj(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm block of attention and MLP.

    Args:
        dim: C, the number of channels.
        num_heads: H, the number of heads.
        mlp_ratio: Ratio of the MLP's hidden width to ``dim``; the product is rounded down.
        init_values: Initial layer scale of both branches; None for no layer scale.
        drop_path: Probability of dropping a branch, per sample.
        causal: Whether a token attends only to itself and to those before it.
        **dd: Device and dtype of the parameters.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        init_values: float | None = None,
        drop_path: float = 0.0,
        causal: bool = False,
        **dd: Any,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, EPS, **dd)
        self.attn = Attention(dim, num_heads, causal, **dd)
        self.ls1 = LayerScale(dim, init_values, **dd) if init_values is not None else nn.Identity()
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, EPS, **dd)
        self.mlp = _mlp(dim, mlp_ratio, **dd)
        self.ls2 = LayerScale(dim, init_values, **dd) if init_values is not None else nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def attention_branch(self, y: Tensor) -> Tensor:
        """Apply layer scale and drop path to the attention's output, before it is added to the tokens."""
        return self.drop_path1(self.ls1(y))

    def mlp_residual(self, x: Tensor) -> Tensor:
        """Return the sum of the tokens and the MLP's output for them."""
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

    def forward(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        """[B, N, C] -> [B, N, C]. ``rope`` holds the rotations, see `Attention.project`."""
        return self.mlp_residual(x + self.attention_branch(self.attn(self.norm1(x), rope)))


class AttentionPool(nn.Module):
    """A pool of all tokens by a learned query, followed by an MLP (arXiv 2504.13181, section 2.1).

    There is one query for all images. So its scores are a product of the tokens with one vector per head, and the
    tokens are averaged before they are projected to values: the same numbers as with keys and values of all tokens,
    without these.

    Args:
        dim: C, the number of channels.
        num_heads: H, the number of heads.
        mlp_ratio: Ratio of the MLP's hidden width to ``dim``.
        **dd: Device and dtype of the parameters.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, **dd: Any) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.latent = nn.Parameter(torch.empty(1, 1, dim, **dd))
        self.q = nn.Linear(dim, dim, **dd)
        self.kv = nn.Linear(dim, 2 * dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)
        self.norm = nn.LayerNorm(dim, EPS, **dd)
        self.mlp = _mlp(dim, mlp_ratio, **dd)

    def scores(self, x: Tensor) -> Tensor:
        """Return the weight of each token in each head: [B, N, C] -> [B, H, N], which sum to 1 over the tokens."""
        dim = x.shape[-1] // self.num_heads
        query = self.q(self.latent).view(self.num_heads, 1, dim) * dim**-0.5
        keys = self.kv.weight[: x.shape[-1]].view(self.num_heads, dim, x.shape[-1])
        probe = torch.bmm(query, keys)[:, 0]  # H, C; the bias of the keys would add the same to every score
        return F.linear(x, probe.to(x.dtype)).softmax(1).transpose(1, 2)

    def values(self, x: Tensor) -> Tensor:
        """Project one token per head to the values of that head, and join them: [B, H, C] -> [B, C]."""
        shape = (self.num_heads, x.shape[-1] // self.num_heads)
        weight = self.kv.weight[x.shape[-1] :].view(*shape, x.shape[-1]).transpose(1, 2)
        bias = self.kv.bias[x.shape[-1] :].view(shape[0], 1, shape[1])
        heads = torch.baddbmm(bias, x.transpose(0, 1), weight)  # H, B, D
        return self.proj(heads.transpose(0, 1).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, C]."""
        y = self.values(self.scores(x) @ x)
        return y + self.mlp(self.norm(y))


def _mlp(dim: int, ratio: float, **dd: Any) -> Mlp:
    """Return timm's MLP without the dropout that it would call for nothing."""
    mlp = Mlp(dim, int(dim * ratio), **dd)
    mlp.drop1, mlp.drop2 = nn.Identity(), nn.Identity()
    return mlp


def run_block(block: nn.Module, x: Tensor, rope: Tensor | None, recompute: bool) -> Tensor:
    """Run a block. With ``recompute``, its activations are computed again in the backward pass, and not kept."""
    return checkpoint(block, x, rope=rope, use_reentrant=False) if recompute else block(x, rope=rope)


def initialise(module: nn.Module) -> None:
    """Initialise the attention layers of a tower: all three projections as one matrix, biases at zero.

    Everything else keeps torch's own initialisation, as in the original.
    """
    for part in module.modules():
        if isinstance(part, Attention):
            nn.init.xavier_uniform_(part.qkv.weight)
            nn.init.zeros_(part.qkv.bias)
            nn.init.zeros_(part.proj.bias)
        elif isinstance(part, AttentionPool):
            bound = (6 / (4 * part.latent.shape[-1])) ** 0.5  # that of the three matrices stacked
            for layer in (part.q, part.kv):
                nn.init.uniform_(layer.weight, -bound, bound)
                nn.init.zeros_(layer.bias)
            nn.init.zeros_(part.proj.bias)
            nn.init.normal_(part.latent)
