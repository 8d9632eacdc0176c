"""HieraDet: Hiera's blocks on token grids, for dense prediction at any size (SAM 2, section 8; arXiv 2311.05613).

The weights are Hiera's except for the positions. Tokens stay on a grid and each block cuts out its own windows, so
windows may differ from mask units, and the input may have any size that is a multiple of `HieraDet.multiple`. The
default is SAM 2's model; with ``pretrain_grid`` and ``rel_pos_img_size`` it is the model of "Window Attention is
Bugged".

Shapes: B batch, H, W rows and columns of tokens, C channels, N windows in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import ClNormMlpClassifierHead, trunc_normal_
from torch import Tensor, nn

from hiera.abswin import abs_win, split_plain, tile_positions
from hiera.arguments import check_arguments
from hiera.dense.relative import relative_bias, relative_tables
from hiera.dense.windows import WindowBlock, max_pool
from hiera.layers import LAYER_NORM, NormLayer, PatchEmbed, run_block
from hiera.stages import BlockPlan, plan_blocks, stage_ends
from hiera.tokens import channels_first, channels_last
from plm_core import InputError


class WindowAttention(nn.Module):
    """A layer of attention over a grid, or over its windows stacked into the batch; it may max-pool its queries.

    Args:
        dim: Number of input channels.
        dim_out: Number of output channels.
        num_heads: Number of attention heads.
        q_stride: Pooling stride per dimension; 1 for no pooling.
        rel_pos_size: (height, width) of the relative position tables; None for no relative positions.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        q_stride: int,
        rel_pos_size: Sequence[int] | None = None,
        **dd: Any,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_stride = q_stride
        self.qkv = nn.Linear(dim, 3 * dim_out, **dd)
        self.proj = nn.Linear(dim_out, dim_out, **dd)
        self.rel_pos_h: nn.Parameter | None = None
        self.rel_pos_w: nn.Parameter | None = None
        if rel_pos_size is not None:
            self.rel_pos_h, self.rel_pos_w = relative_tables(rel_pos_size, dim_out // num_heads, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, dim] -> [N, H / q_stride, W / q_stride, dim_out]."""
        q, k, v = self.qkv(x).chunk(3, -1)
        q = max_pool(q, self.q_stride)
        height, width = q.shape[1:3]
        q, k, v = (t.flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        bias = None
        if self.rel_pos_h is not None and self.rel_pos_w is not None:
            bias = relative_bias(q, self.rel_pos_h, self.rel_pos_w, (height, width), x.shape[1:3])
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(y.transpose(1, 2).flatten(2).unflatten(1, (height, width)))


class HieraDet(nn.Module):
    """A Hiera for dense prediction, with Absolute Win positions and SAM 2's keywords.

    Args:
        embed_dim: Number of channels in the first stage.
        num_heads: Number of attention heads in the first stage.
        drop_path_rate: Drop path rate of the last block; the rate rises linearly from 0 at the first block.
        q_pool: Number of stage transitions that pool.
        q_stride: Pooling stride per dimension.
        stages: Number of blocks in each stage.
        dim_mul: Factor on the number of channels from one stage to the next.
        head_mul: Factor on the number of heads from one stage to the next.
        window_pos_embed_bkg_spatial_size: (height, width) of the global position embedding.
        window_spec: Side of the windows in each stage, in tokens. The first block of a stage still uses the windows of
            the stage before, because windows change after pooling.
        global_att_blocks: Indices of the blocks with global attention.
        num_classes: Number of classes of timm's head, which is a norm and a classifier, or for 0 classes a norm alone.
            None, as in SAM 2, for no head.
        in_chans: Number of input channels.
        mlp_ratio: Ratio of an MLP's hidden width to the block's width.
        init_values: Initial layer scale; None for no layer scale.
        norm_layer: Norm constructor, called with the width.
        pretrain_grid: (height, width) in tokens of the pretraining images, (56, 56) for 224 pixels. This selects the
            paper's recursive form: the embedding of this grid is tiled over larger ones, so that each tile has the
            positions of the pretraining. None selects SAM 2's form: the global embedding is interpolated to any grid.
        rel_pos_img_size: Side in pixels of the square images for which the global blocks get tables of decomposed
            relative positions, which tell the tiles apart. For other sizes the tables are interpolated. None, as in
            SAM 2, for no relative positions.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Attributes:
        channels: Number of channels of each map.
        strides: Stride of each map in pixels.
        multiple: Number of pixels of which the sides of an input must be multiples. It is the largest stride or, in
            SAM 2's form, the smallest multiple of it that holds whole windows of the first stage, over which the window
            embedding is tiled. The windows of the blocks do not matter, because each block pads its grid to them.

    Raises:
        InputError: A block that pools is global, which no code base supports; the windows of a block that pools are not
            a multiple of ``q_stride``; ``pretrain_grid`` is not a multiple of the first stage's window;
            ``rel_pos_img_size`` is not a multiple of the model's largest stride; or ``q_stride`` differs between the
            dimensions.
    """

    def __init__(
        self,
        embed_dim: int = 96,
        num_heads: int = 1,
        drop_path_rate: float = 0.0,
        q_pool: int = 3,
        q_stride: Sequence[int] = (2, 2),
        stages: Sequence[int] = (2, 3, 16, 3),
        dim_mul: float = 2.0,
        head_mul: float = 2.0,
        window_pos_embed_bkg_spatial_size: Sequence[int] = (14, 14),
        window_spec: Sequence[int] = (8, 4, 14, 7),
        global_att_blocks: Sequence[int] = (12, 16, 20),
        *,
        num_classes: int | None = None,
        in_chans: int = 3,
        mlp_ratio: float = 4.0,
        init_values: float | None = None,
        norm_layer: NormLayer = LAYER_NORM,
        pretrain_grid: Sequence[int] | None = None,
        rel_pos_img_size: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_arguments(locals() | {"num_classes": 0 if num_classes is None else num_classes})
        super().__init__()
        _check_sizes(stages, q_stride, window_spec, window_pos_embed_bkg_spatial_size, pretrain_grid)
        self.pretrain_grid = pretrain_grid
        dd = {"device": device, "dtype": dtype}
        self.in_chans = in_chans
        self.grad_checkpointing = False
        self.stage_ends = stage_ends(stages)
        stride = 4 * q_stride[0] ** min(q_pool, len(stages) - 1)
        if rel_pos_img_size is not None and rel_pos_img_size % stride:
            raise InputError(f"rel_pos_img_size {rel_pos_img_size} is not a multiple of {stride}")
        self.multiple = stride if pretrain_grid is not None else math.lcm(stride, 4 * window_spec[0])
        self.patch_embed = PatchEmbed(in_chans, embed_dim, (7, 7), (4, 4), (3, 3), **dd)
        self.pos_embed = nn.Parameter(torch.zeros(1, embed_dim, *window_pos_embed_bkg_spatial_size, **dd))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, embed_dim, window_spec[0], window_spec[0], **dd))
        plans = plan_blocks(
            stages,
            embed_dim,
            num_heads,
            q_pool=q_pool,
            dim_mul=dim_mul,
            head_mul=head_mul,
            drop_path_rate=drop_path_rate,
        )
        for i, plan in enumerate(plans):
            if plan.pools and i in global_att_blocks:
                raise InputError(f"global_att_blocks {tuple(global_att_blocks)}: block {i} pools and cannot be global")
            if plan.pools and window_spec[plan.attends_as] % q_stride[0]:
                raise InputError(
                    f"window_spec {tuple(window_spec)}: block {i} pools, so its window {window_spec[plan.attends_as]} "
                    f"must be a multiple of q_stride {q_stride[0]}"
                )
        self.channels = [plan.dim_out for plan in plans if plan.ends_stage]
        self.strides = [4 * q_stride[0] ** plan.poolings for plan in plans if plan.ends_stage]

        def attention(plan: BlockPlan, is_global: bool) -> partial[WindowAttention]:
            q = q_stride[0] if plan.pools else 1
            sides = None
            if is_global and rel_pos_img_size is not None:
                sides = (rel_pos_img_size // (4 * q_stride[0] ** plan.poolings),) * 2
            return partial(WindowAttention, plan.dim, plan.dim_out, plan.num_heads, q, sides)

        self.blocks = nn.ModuleList(
            WindowBlock(
                plan.dim,
                plan.dim_out,
                attention(plan, i in global_att_blocks),
                window=0 if i in global_att_blocks else window_spec[plan.attends_as],
                q_stride=q_stride[0] if plan.pools else 1,
                mlp_ratio=mlp_ratio,
                drop_path=plan.drop_path,
                init_values=init_values,
                norm_layer=norm_layer,
                **dd,
            )
            for i, plan in enumerate(plans)
        )
        self.head = None
        if num_classes is not None:
            self.head = ClNormMlpClassifierHead(
                plans[-1].dim_out, num_classes, norm_layer=norm_layer, input_fmt="NHWC", **dd
            )
        trunc_normal_(self.pos_embed, std=0.02)
        trunc_normal_(self.pos_embed_window, std=0.02)

    def positions(self, grid: Sequence[int]) -> Tensor:
        """Return the position embedding of a grid of tokens, [1, H, W, C]; ``pretrain_grid`` selects its form."""
        if self.pretrain_grid is None:
            return abs_win(self.pos_embed, self.pos_embed_window, grid)
        return tile_positions(abs_win(self.pos_embed, self.pos_embed_window, self.pretrain_grid), grid)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, in_chans, height, width] -> maps of the stages, [B, C, H, W] each, with the strides ``strides``.

        Raises:
            InputError: The number of channels is not ``in_chans``, or a side is not a multiple of ``multiple``.
        """
        self._check_input(x)
        x = self.patch_embed(x)
        x = x + self.positions(x.shape[1:3])
        maps = []
        for i, block in enumerate(self.blocks):
            x = run_block(block, x, self.grad_checkpointing)
            if i in self.stage_ends:
                maps.append(channels_first(x))
        return maps

    def forward_head(self, maps: Sequence[Tensor], pre_logits: bool = False) -> Tensor:
        """Turn the maps of ``forward`` into logits [B, num_classes]; with ``pre_logits``, into pooled, normed features.

        Raises:
            InputError: The model has no head.
        """
        if self.head is None:
            raise InputError("num_classes is None: this HieraDet was built without a head")
        return self.head(channels_last(maps[-1]), pre_logits=pre_logits)

    @torch.no_grad()
    def load_hiera(self, hiera: nn.Module | Mapping[str, Tensor]) -> None:
        """Load the weights of an image Hiera, except for its head; this model's head and relative positions stay.

        Absolute Win positions are loaded unchanged, except that a global embedding of another size is resized. Hiera
        interpolates the global embedding with antialiasing and HieraDet without, which can make the positions differ.
        Plain positions of a square image are split (see `hiera.abswin.split_plain`). The split is exact if the global
        embedding has the size of the plain one, and approximate otherwise.

        Args:
            hiera: The model, or its state dict with our own keys.

        Raises:
            InputError: Any other weight does not fit; this model is unchanged.
        """
        state = dict(hiera.state_dict() if isinstance(hiera, nn.Module) else hiera)
        own = {key: value for key, value in self.state_dict().items() if "rel_pos" not in key and key[:5] != "head."}
        if {"pos_embed", "pos_embed_win"} <= state.keys():
            window, size = state["pos_embed_win"], own["pos_embed_window"].shape[2:]
            repeats = [new // old for new, old in zip(size, window.shape[2:], strict=True)]
            state["pos_embed_window"] = window.tile(1, 1, *repeats)  # a larger window consists of whole smaller ones
            if state["pos_embed"].shape[2:] != own["pos_embed"].shape[2:]:
                bicubic: Any = {"mode": "bicubic", "antialias": True}
                state["pos_embed"] = F.interpolate(state["pos_embed"], own["pos_embed"].shape[2:], **bicubic)
        elif "pos_embed" in state:
            side = math.isqrt(state["pos_embed"].shape[1])
            if side**2 != state["pos_embed"].shape[1]:
                raise InputError(f"hiera has {state['pos_embed'].shape[1]} positions, which do not form a square")
            plain = state["pos_embed"].unflatten(1, (side, side))
            sizes = (own[key].shape[2:] for key in ("pos_embed_window", "pos_embed"))
            state["pos_embed"], state["pos_embed_window"], _ = split_plain(plain, *sizes)
        fitting = {key: value for key, value in state.items() if key in own}
        wrong_shape = [key for key, value in fitting.items() if value.shape != own[key].shape]
        missing = [key for key in own if key not in fitting]
        # Weights that would be ignored, such as the blocks of a deeper model or layer scales.
        unexpected = [key for key in state if key.startswith("blocks.") and key not in own]
        if wrong_shape or missing or unexpected:
            raise InputError(
                f"hiera does not fit this HieraDet: wrong shape {wrong_shape[:3]}, missing {missing[:3]}, "
                f"unexpected {unexpected[:3]}"
            )
        self.load_state_dict(fitting, strict=False)

    def _check_input(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            raise InputError(f"x has shape {list(x.shape)}; [batch, {self.in_chans}, height, width] is expected")
        for name, side in zip(("height", "width"), x.shape[2:], strict=True):
            if side % self.multiple or side == 0:
                padded = max(-(-side // self.multiple), 1) * self.multiple
                raise InputError(f"x has {name} {side}, which is not a multiple of {self.multiple}; pad it to {padded}")

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that optimizers should not decay."""
        return {"pos_embed", "pos_embed_window"}


def _check_sizes(
    stages: Sequence[int],
    q_stride: Sequence[int],
    windows: Sequence[int],
    size: Sequence[int],
    pretrain_grid: Sequence[int] | None,
) -> None:
    if len(set(q_stride)) != 1:
        raise InputError(f"q_stride {tuple(q_stride)} must be the same in both dimensions")
    if len(windows) < len(stages):
        raise InputError(f"window_spec {tuple(windows)} needs a window for each of {len(stages)} stages")
    for name, pair in {"window_pos_embed_bkg_spatial_size": size, "pretrain_grid": pretrain_grid}.items():
        if pair is not None and (isinstance(pair, int) or len(pair) != 2):
            raise InputError(f"{name} {pair} is not allowed: (height, width) is")
    if pretrain_grid is not None and any(side % windows[0] for side in pretrain_grid):
        raise InputError(f"pretrain_grid {tuple(pretrain_grid)} is not a multiple of the window, {windows[0]}")
