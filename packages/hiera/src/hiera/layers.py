"""Hiera's layers: attention inside or across mask units, the block that may pool, and overlapping patches.

Shapes: B batch, U mask units, T tokens per unit, C channels (see `hiera.tokens`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerScale, Mlp
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hiera.tokens import channels_last, pool, pool_mean
from plm_core import InputError

NormLayer = Callable[..., nn.Module]
LAYER_NORM = partial(nn.LayerNorm, eps=1e-6)


class MaskUnitAttention(nn.Module):
    """A layer of attention inside each mask unit or over all tokens; it may max-pool its queries (paper, section 3.2).

    Args:
        dim: Number of input channels.
        dim_out: Number of channels of the output, and of q, k and v each, over all heads.
        num_heads: Number of attention heads.
        q_stride: Flat stride by which the queries are pooled (product over dimensions); 1 for no pooling.
        local: Whether attention stays inside mask units.
    """

    def __init__(self, dim: int, dim_out: int, num_heads: int, q_stride: int, local: bool, **dd: Any) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim_out // num_heads
        self.q_stride = q_stride
        self.local = local
        self.qkv = nn.Linear(dim, 3 * dim_out, **dd)
        self.proj = nn.Linear(dim_out, dim_out, **dd)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, U, T, C] -> q, k, v [G, heads, n, head_dim]; G is B * U for local attention, else B."""
        batch, units, tokens, _ = x.shape
        groups, n = (batch * units, tokens) if self.local else (batch, units * tokens)
        qkv = self.qkv(x).reshape(groups, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.q_stride > 1:
            q = q.unflatten(2, (-1, self.q_stride, tokens // self.q_stride)).amax(3).flatten(2, 3)
        return q, k, v

    def merge(self, y: Tensor, batch: int, units: int) -> Tensor:
        """Project attended values [G, heads, n, head_dim] to tokens [B, U, T, C]."""
        tokens = y.shape[2] if self.local else y.shape[2] // units
        return self.proj(y.transpose(1, 2).reshape(batch, units, tokens, self.num_heads * self.head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """[B, U, T, dim] -> [B, U, T / q_stride, dim_out]."""
        return self.merge(F.scaled_dot_product_attention(*self.project(x)), x.shape[0], x.shape[1])


class PreNormBlock(nn.Module):
    """A base class with the parts that the blocks of all trunks share; each subclass applies the attention its own way.

    Args:
        dim: Number of input channels.
        dim_out: Number of output channels. If it differs from ``dim``, a projection widens the residual.
        attention: Function that builds the attention layer from device and dtype.
        mlp_ratio: Ratio of the MLP's hidden width to ``dim_out``.
        drop_path: Probability of dropping a branch, per sample.
        norm_layer: Norm constructor, called with the width.
        init_values: Initial layer scale of both branches; None for no layer scale.
        expand_proj: Whether to create that projection.
        **dd: Device and dtype of the parameters.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        attention: Callable[..., nn.Module],
        *,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        norm_layer: NormLayer = LAYER_NORM,
        init_values: float | None = None,
        expand_proj: bool = True,
        **dd: Any,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim, **dd)
        self.proj = nn.Linear(dim, dim_out, **dd) if dim != dim_out and expand_proj else None
        self.attn = attention(**dd)
        self.ls1 = LayerScale(dim_out, init_values, **dd) if init_values is not None else nn.Identity()
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = norm_layer(dim_out, **dd)
        self.mlp = Mlp(dim_out, int(dim_out * mlp_ratio), **dd)
        self.ls2 = LayerScale(dim_out, init_values, **dd) if init_values is not None else nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def attention_branch(self, y: Tensor) -> Tensor:
        """Apply layer scale and drop path to the attention's output, before it is added to the residual."""
        return self.drop_path1(self.ls1(y))

    def mlp_residual(self, x: Tensor) -> Tensor:
        """Return the sum of the tokens and the MLP's output for them."""
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class HieraBlock(PreNormBlock):
    """A pre-norm block of attention and MLP.

    If the width changes, the residual is widened, and pooled like the queries.

    Args:
        dim: Number of input channels.
        dim_out: Number of output channels.
        num_heads: Number of attention heads.
        mlp_ratio: Ratio of the MLP's hidden width to ``dim_out``.
        drop_path: Probability of dropping a branch, per sample.
        norm_layer: Norm constructor, called with the width.
        q_stride: Flat pooling stride (product over dimensions); 1 for no pooling.
        local: Whether attention stays inside mask units.
        init_values: Initial layer scale of both branches; None for no layer scale.
        expand_proj: Whether a projection widens the residual. Without it, the residual's max-pooled and mean-pooled
            values are concatenated, as in timm's abs-win models.

    Raises:
        InputError: ``expand_proj`` is False and the width neither stays the same nor doubles.
    """

    attn: MaskUnitAttention

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        norm_layer: NormLayer = LAYER_NORM,
        q_stride: int = 1,
        local: bool = False,
        init_values: float | None = None,
        expand_proj: bool = True,
        **dd: Any,
    ) -> None:
        if not expand_proj and dim_out not in (dim, 2 * dim):
            raise InputError(f"expand_proj=False doubles the width; {dim} -> {dim_out} needs the projection")
        super().__init__(
            dim,
            dim_out,
            partial(MaskUnitAttention, dim, dim_out, num_heads, q_stride, local),
            mlp_ratio=mlp_ratio,
            drop_path=drop_path,
            norm_layer=norm_layer,
            init_values=init_values,
            expand_proj=expand_proj,
            **dd,
        )
        self.expands = dim != dim_out

    def residual(self, x: Tensor, normed: Tensor) -> Tensor:
        """Return the residual to which the attention's output is added.

        It is x if the width stays the same. If the width changes, it is the pooled projection of the NORMED x, or
        without a projection the concatenation of the max-pooled and the mean-pooled x.
        """
        if self.proj is not None:
            return pool(self.proj(normed), self.attn.q_stride)
        if self.expands:
            return torch.cat([pool(x, self.attn.q_stride), pool_mean(x, self.attn.q_stride)], -1)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """[B, U, T, dim] -> [B, U, T / q_stride, dim_out]."""
        normed = self.norm1(x)
        return self.mlp_residual(self.residual(x, normed) + self.attention_branch(self.attn(normed)))


def run_block(block: Callable[[Tensor], Tensor], x: Tensor, recompute: bool) -> Tensor:
    """Run a block; with ``recompute``, its activations are computed again in the backward pass, not kept."""
    return checkpoint(block, x, use_reentrant=False) if recompute else block(x)


class PatchEmbed(nn.Module):
    """A strided convolution over patches that may overlap; its output is channels-last."""

    def __init__(
        self, in_chans: int, dim: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], **dd: Any
    ) -> None:
        super().__init__()
        conv: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(kernel)]
        self.proj: nn.Module = conv(in_chans, dim, tuple(kernel), tuple(stride), tuple(padding), **dd)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_chans, *size] -> [B, *grid, dim]."""
        return channels_last(self.proj(x))
