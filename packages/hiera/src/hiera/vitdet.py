"""ViTDet with Absolute Win: a plain ViT for detection whose windows keep the pretrained position embedding.

This is the second half of "Window Attention is Bugged" (arXiv 2311.05613), as SAM 2 (8.2.2, C.1) and SAM 3 (C.2)
describe it. ViTDet interpolates the pretrained position embedding to the larger grid, so each attention window receives
a magnified part of it. Here the embedding is TILED: each window receives all of it. Windows are told apart by the
decomposed relative positions of the few blocks with global attention. The windowed blocks have no relative positions,
so they keep a fused attention kernel.

Shapes: B batch, H, W rows and columns of tokens, C channels, N windows in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed, trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from hiera.abswin import tile_positions
from hiera.arguments import check_arguments
from hiera.dense.relative import relative_bias, relative_tables
from hiera.dense.windows import WindowBlock
from hiera.layers import LAYER_NORM, NormLayer, run_block
from hiera.tokens import channels_first
from plm_core import InputError


class ViTDetAttention(nn.Module):
    """A layer of attention over a grid, with relative positions or without.

    Args:
        dim: Number of channels.
        num_heads: Number of attention heads.
        rel_pos_size: (height, width) of the relative position tables; None for no relative positions.
    """

    def __init__(self, dim: int, num_heads: int, rel_pos_size: Sequence[int] | None = None, **dd: Any) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)
        self.rel_pos_h: nn.Parameter | None = None
        self.rel_pos_w: nn.Parameter | None = None
        if rel_pos_size is not None:
            self.rel_pos_h, self.rel_pos_w = relative_tables(rel_pos_size, dim // num_heads, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, H, W, C]."""
        size = (x.shape[1], x.shape[2])
        q, k, v = self.qkv(x).flatten(1, 2).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = None
        if self.rel_pos_h is not None and self.rel_pos_w is not None:
            bias = relative_bias(q, self.rel_pos_h, self.rel_pos_w, size, size)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(y.transpose(1, 2).flatten(2).unflatten(1, size))


class ViTDet(nn.Module):
    """A plain ViT for detection with tiled positions; it returns one map, of stride 16.

    Tensors have the names of timm's ViT without its class token, so a pretrained ViT can be loaded (`load_vit`). The
    relative positions, which no pretrained ViT has, start at zero.

    Args:
        img_size: Side in pixels of the square images that the relative position tables are for. For other sizes the
            tables are interpolated.
        patch_size: Side of a patch in pixels.
        in_chans: Number of input channels.
        embed_dim: Number of channels.
        depth: Number of blocks.
        num_heads: Number of attention heads.
        mlp_ratio: Ratio of an MLP's hidden width to ``embed_dim``.
        pretrain_grid: Side of the pretrained position embedding's grid in tokens; the windows have the same side.
        global_att_blocks: Indices of the blocks with global attention and relative positions.
        drop_path_rate: Drop path rate of the last block; the rate rises linearly from 0 at the first block.
        norm_layer: Norm constructor, called with the width.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Raises:
        InputError: An argument is not allowed.
    """

    def __init__(
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        pretrain_grid: int = 14,
        global_att_blocks: Sequence[int] = (2, 5, 8, 11),
        drop_path_rate: float = 0.1,
        norm_layer: NormLayer = LAYER_NORM,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_arguments(locals())
        super().__init__()
        for name, side in {"img_size": img_size, "pretrain_grid": pretrain_grid}.items():
            if not isinstance(side, int) or (name == "img_size" and side < patch_size):
                raise InputError(f"{name} {side} is not allowed: the side of a square is, of a patch or more")
        if embed_dim % num_heads:
            raise InputError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.patch_size = patch_size
        self.in_chans = in_chans
        self.grad_checkpointing = False
        self.patch_embed = PatchEmbed(
            None, patch_size, in_chans, embed_dim, flatten=False, output_fmt="NHWC", strict_img_size=False, **dd
        )
        self.pos_embed = nn.Parameter(torch.zeros(1, pretrain_grid**2, embed_dim, **dd))
        self.pretrain_grid = pretrain_grid
        side = img_size // patch_size
        self.blocks = nn.Sequential(
            *(
                WindowBlock(
                    embed_dim,
                    embed_dim,
                    partial(ViTDetAttention, embed_dim, num_heads, (side, side) if i in global_att_blocks else None),
                    window=0 if i in global_att_blocks else pretrain_grid,
                    mlp_ratio=mlp_ratio,
                    drop_path=drop_path_rate * i / max(depth - 1, 1),
                    norm_layer=norm_layer,
                    **dd,
                )
                for i in range(depth)
            )
        )
        trunc_normal_(self.pos_embed, std=0.02)

    def positions(self, grid: Sequence[int]) -> Tensor:
        """Return the position embedding of a grid, [1, H, W, C]: pos[:, i, j] == pos[:, i + window, j + window]."""
        return tile_positions(self.pos_embed.unflatten(1, (self.pretrain_grid, self.pretrain_grid)), grid)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_chans, height, width] -> [B, C, height / patch, width / patch].

        Raises:
            InputError: The number of channels is not ``in_chans``, or a side is not a multiple of the patch size.
        """
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            raise InputError(f"x has shape {list(x.shape)}; [batch, {self.in_chans}, height, width] is expected")
        for name, side in zip(("height", "width"), x.shape[2:], strict=True):
            if side % self.patch_size or side == 0:
                raise InputError(f"x has {name} {side}, which is not a multiple of the patch, {self.patch_size}")
        x = self.patch_embed(x)
        x = x + self.positions(x.shape[1:3])
        for block in self.blocks:
            x = run_block(block, x, self.grad_checkpointing)
        return channels_first(x)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        self.grad_checkpointing = enable

    @torch.no_grad()
    def load_vit(self, vit: nn.Module | Mapping[str, Tensor]) -> None:
        """Load the weights of a timm VisionTransformer, except for its head and its class token and position.

        Relative positions, which no pretrained ViT has, stay as they are.

        Args:
            vit: The model, or its state dict.

        Raises:
            InputError: The ViT has other sizes or positions for another grid than ``pretrain_grid``; or it has parts
                that this model lacks, such as layer scales, norms of queries and keys, registers or further blocks; or,
                as far as a model shows it, another activation, norm or order of its layers. This model is unchanged.
        """
        state = dict(vit.state_dict() if isinstance(vit, nn.Module) else vit)
        own = {key: value for key, value in self.state_dict().items() if "rel_pos" not in key}
        if "pos_embed" in state:
            state["pos_embed"] = self._patch_positions(state)
        lacking: dict[str, str] = {}
        for key in state.keys() - own.keys():
            if what := _foreign(key):
                lacking[what] = min(key, lacking.get(what, key))
        if lacking:
            parts = ", no ".join(f"{what} ({key})" for what, key in sorted(lacking.items()))
            raise InputError(f"vit does not fit this ViTDet, which has no {parts}")
        state = {key: value for key, value in state.items() if key in own}
        missing = [key for key in own if key not in state]
        wrong_shape = [key for key, value in state.items() if value.shape != own[key].shape]
        if missing or wrong_shape:
            raise InputError(f"vit does not fit this ViTDet: wrong shape {wrong_shape[:3]}, missing {missing[:3]}")
        if isinstance(vit, nn.Module) and (layers := _other_layers(vit, self)):
            raise InputError(f"vit does not fit this ViTDet, which has no {', no '.join(layers)}")
        self.load_state_dict(state, strict=False)

    def _patch_positions(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return the positions of the patches, [1, grid * grid, C]."""
        positions = state["pos_embed"]
        prefix = sum(state[key].shape[1] for key in ("cls_token", "dist_token", "reg_token") if key in state)
        # some models give no position to their class token
        sides = ((math.isqrt(max(n, 0)), n) for n in (positions.shape[1] - prefix, positions.shape[1]))
        side = next((side for side, n in sides if side**2 == n), None)
        if side != self.pretrain_grid:
            grid = "no square grid" if side is None else f"a grid of {side} x {side}"
            raise InputError(
                f"vit has {positions.shape[1]} positions, for {grid}, not for {self.pretrain_grid} x "
                f"{self.pretrain_grid}: windows and positions must be those of the pretraining (pretrain_grid)"
            )
        return positions[:, -(side**2) :]


# The tensors of a VisionTransformer that a detector has no use for, and names for others, which it cannot do without.
_DROPPED = ("cls_token", "dist_token", "norm.", "fc_norm.", "head.", "head_dist.", "attn_pool.")
_PARTS = {"ls1.": "layer scale", "ls2.": "layer scale", "q_norm.": "norm of queries", "k_norm.": "norm of keys"}
_PARTS |= {"reg_token": "register tokens", "norm_pre.": "norm before the blocks"}


def _foreign(key: str) -> str | None:
    """Return what a tensor of a ViT is that a ViTDet lacks; None for one that may be dropped."""
    if key.startswith(_DROPPED):
        return None
    part = next((name for part, name in _PARTS.items() if part in key), None)
    return part or (f"block {key.split('.')[1]}" if key.startswith("blocks.") else "such tensor")


def _other_layers(vit: nn.Module, own: nn.Module) -> list[str]:
    """Return the layers of a ViT's first block that compute something else than those of a ViTDet."""
    theirs, ours = (next(iter(getattr(model, "blocks", [])), None) for model in (vit, own))
    if theirs is None or ours is None:
        return []
    if not isinstance(theirs, Block):
        return [type(theirs).__name__]
    pairs = ((theirs.mlp.act, ours.mlp.act), (theirs.norm1, ours.norm1))
    return [repr(a) for a, b in pairs if repr(a) != repr(b)]
