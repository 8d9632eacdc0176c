"""HieraDet: Hiera's blocks on token grids, for dense prediction at any size (SAM 2, section 8; arXiv 2311.05613).

The weights are Hiera's but for the positions. Tokens stay a grid, windows are cut out anew in each block, so that they
may differ from mask units and the input may have any size that is a multiple of 32. The default is SAM 2's model; with
``pretrain_grid`` and ``rel_pos_img_size`` it is that of "Window Attention is Bugged".

Shapes: B batch, H, W tokens, C channels, N windows, S tokens per window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import ClNormMlpClassifierHead, DropPath, LayerScale, Mlp, trunc_normal_
from torch import Tensor, nn

from hiera.abswin import abs_win, split_plain, tile_positions
from hiera.dense.relative import relative_bias
from hiera.layers import LAYER_NORM, NormLayer, PatchEmbed
from plm_core import InputError


def max_pool(x: Tensor, stride: int) -> Tensor:
    """Max pooling of a grid [B, H, W, C]; what does not fill a window at the end is dropped."""
    if stride == 1:
        return x
    return F.max_pool2d(x.movedim(-1, 1), stride, stride).movedim(1, -1)


class WindowAttention(nn.Module):
    """Attention over a grid, or over windows of it that were stacked into the batch; queries may be max-pooled.

    Args:
        dim: Channels in.
        dim_out: Channels out.
        heads: Attention heads.
        q_stride: Pooling stride; 1 for none.
        rel_pos_size: (height, width) that relative position tables are made for; None for none.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        heads: int,
        q_stride: int,
        rel_pos_size: Sequence[int] | None = None,
        **dd: Any,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.q_stride = q_stride
        self.qkv = nn.Linear(dim, 3 * dim_out, **dd)
        self.proj = nn.Linear(dim_out, dim_out, **dd)
        self.rel_pos_h: nn.Parameter | None = None
        self.rel_pos_w: nn.Parameter | None = None
        if rel_pos_size is not None:
            # zero, as in ViTDet: finetuning starts from the pretrained attention
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * rel_pos_size[0] - 1, dim_out // heads, **dd))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * rel_pos_size[1] - 1, dim_out // heads, **dd))

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, dim] -> [N, H / q_stride, W / q_stride, dim_out]."""
        q, k, v = self.qkv(x).chunk(3, -1)
        q = max_pool(q, self.q_stride)
        height, width = q.shape[1:3]
        q, k, v = (t.flatten(1, 2).unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        bias = None
        if self.rel_pos_h is not None and self.rel_pos_w is not None:
            bias = relative_bias(q, self.rel_pos_h, self.rel_pos_w, (height, width), x.shape[1:3])
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(y.transpose(1, 2).flatten(2).unflatten(1, (height, width)))


class HieraDetBlock(nn.Module):
    """Hiera's block on a grid.

    Args:
        dim: Channels in.
        dim_out: Channels out.
        heads: Attention heads.
        window: Side of the attention windows in tokens; 0 for global attention.
        q_stride: Pooling stride; 1 for none.
        mlp_ratio: Hidden width of the MLP over ``dim_out``.
        drop_path: Probability of dropping a branch, per sample.
        init_values: Initial layer scale; None for none.
        norm_layer: Called with the width.
        rel_pos_size: (height, width) that relative position tables are made for; None for none.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        heads: int,
        window: int,
        q_stride: int = 1,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        init_values: float | None = None,
        norm_layer: NormLayer = LAYER_NORM,
        rel_pos_size: Sequence[int] | None = None,
        **dd: Any,
    ) -> None:
        super().__init__()
        self.window = window
        self.q_stride = q_stride
        self.norm1 = norm_layer(dim, **dd)
        self.proj = nn.Linear(dim, dim_out, **dd) if dim != dim_out else None
        self.attn = WindowAttention(dim, dim_out, heads, q_stride, rel_pos_size, **dd)
        self.ls1 = LayerScale(dim_out, init_values, **dd) if init_values is not None else nn.Identity()
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = norm_layer(dim_out, **dd)
        self.mlp = Mlp(dim_out, int(dim_out * mlp_ratio), **dd)
        self.ls2 = LayerScale(dim_out, init_values, **dd) if init_values is not None else nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, dim] -> [B, H / q_stride, W / q_stride, dim_out]."""
        normed = self.norm1(x)
        skip = x if self.proj is None else max_pool(self.proj(normed), self.q_stride)
        x = skip + self.drop_path1(self.ls1(self._attend(normed, skip.shape[1:3])))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

    def _attend(self, x: Tensor, out: Sequence[int]) -> Tensor:
        if self.window == 0:
            return self.attn(x)
        y = self.attn(partition(x, self.window))
        return unpartition(y, self.window // self.q_stride, x.shape[0], out)


def partition(x: Tensor, window: int) -> Tensor:
    """[B, H, W, C] -> [B * windows, window, window, C]; padded with zeros at the bottom and right.

    As in the originals the padding takes part in attention: its keys and values are the projection's bias.
    """
    bottom, right = -x.shape[1] % window, -x.shape[2] % window
    x = F.pad(x, (0, 0, 0, right, 0, bottom))
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return x.transpose(2, 3).flatten(0, 2)


def unpartition(x: Tensor, window: int, batch: int, size: Sequence[int]) -> Tensor:
    """The inverse of `partition` for a grid of ``size``, without the padding."""
    height, width = size
    rows, columns = -(-height // window), -(-width // window)
    x = x.view(batch, rows, columns, window, window, -1).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, :height, :width]


class HieraDet(nn.Module):
    """Hiera for dense prediction, with absolute-win positions; keywords are SAM 2's.

    Args:
        embed_dim: Channels of the first stage.
        num_heads: Heads of the first stage.
        drop_path_rate: Rate of the last block.
        q_pool: How many stage transitions pool.
        q_stride: Pooling stride.
        stages: Blocks per stage.
        dim_mul: Width factor between stages.
        head_mul: Head factor between stages.
        window_pos_embed_bkg_spatial_size: Size of the global position embedding.
        window_spec: Side of the windows in each stage. The first block of a stage uses the one before (after pooling).
        global_att_blocks: Blocks with global attention.
        num_classes: Adds timm's head, a norm and with more than 0 classes a classifier; None, as SAM 2, for neither.
        in_chans: Input channels.
        mlp_ratio: Hidden width of the MLPs over the block's.
        init_values: Initial layer scale; None for none.
        norm_layer: Called with the width.
        pretrain_grid: (height, width) in tokens of the pretraining images, (56, 56) for 224 pixels. The paper's
            recursive form: the embedding of this grid is tiled over larger ones, so that each tile sees what was
            learnt. None for SAM 2's form: the global embedding is interpolated to any grid.
        rel_pos_img_size: Gives the global blocks decomposed relative positions, which tell the tiles apart, with tables
            for square images of this side in pixels; other sizes interpolate them. None, as SAM 2, for none.
        device: Where parameters are made.
        dtype: Their dtype.

    Raises:
        InputError: A pooling block is global, which no code base supports; or the pretraining grid is not whole
            windows.
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
        super().__init__()
        if len(set(q_stride)) != 1:
            raise InputError(f"q_stride {tuple(q_stride)} must be the same in both dimensions")
        if pretrain_grid is not None and any(side % window_spec[0] for side in pretrain_grid):
            raise InputError(f"pretrain_grid {tuple(pretrain_grid)} is not a multiple of the window, {window_spec[0]}")
        self.pretrain_grid = pretrain_grid
        dd = {"device": device, "dtype": dtype}
        self.in_chans = in_chans
        self.stage_ends = [sum(stages[: i + 1]) - 1 for i in range(len(stages))]
        self.multiple = 4 * q_stride[0] ** q_pool
        self.patch_embed = PatchEmbed(in_chans, embed_dim, (7, 7), (4, 4), (3, 3), **dd)
        if rel_pos_img_size is not None and (rel_pos_img_size < 1 or rel_pos_img_size % self.multiple):
            raise InputError(f"rel_pos_img_size {rel_pos_img_size} is not a multiple of {self.multiple}")
        self.pos_embed = nn.Parameter(torch.zeros(1, embed_dim, *window_pos_embed_bkg_spatial_size, **dd))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, embed_dim, window_spec[0], window_spec[0], **dd))
        self.blocks = nn.ModuleList()
        depth, dim, heads = sum(stages), embed_dim, num_heads
        self.channels: list[int] = []
        self.strides: list[int] = []
        stride = 4
        for i in range(depth):
            stage = sum(i > end for end in self.stage_ends)
            first = i > 0 and i - 1 in self.stage_ends
            dim_out = int(dim * dim_mul) if first else dim
            heads = int(heads * head_mul) if first else heads
            pools = first and stage <= q_pool
            if pools and i in global_att_blocks:
                raise InputError(f"global_att_blocks {tuple(global_att_blocks)}: block {i} pools and cannot be global")
            self.blocks.append(
                HieraDetBlock(
                    dim,
                    dim_out,
                    heads,
                    window=0 if i in global_att_blocks else window_spec[stage - first],
                    q_stride=q_stride[0] if pools else 1,
                    mlp_ratio=mlp_ratio,
                    drop_path=drop_path_rate * i / max(depth - 1, 1),
                    init_values=init_values,
                    norm_layer=norm_layer,
                    rel_pos_size=(rel_pos_img_size // stride,) * 2
                    if rel_pos_img_size is not None and i in global_att_blocks
                    else None,
                    **dd,
                )
            )
            dim = dim_out
            stride *= q_stride[0] if pools else 1
            if i in self.stage_ends:
                self.channels.append(dim)
                self.strides.append(stride)
        self.head = None
        if num_classes is not None:
            self.head = ClNormMlpClassifierHead(dim, num_classes, norm_layer=norm_layer, input_fmt="NHWC", **dd)
        trunc_normal_(self.pos_embed, std=0.02)
        trunc_normal_(self.pos_embed_window, std=0.02)

    def positions(self, grid: Sequence[int]) -> Tensor:
        """The position embedding of a grid of tokens, [1, H, W, C]; see ``pretrain_grid``."""
        if self.pretrain_grid is None:
            return abs_win(self.pos_embed, self.pos_embed_window, grid)
        return tile_positions(abs_win(self.pos_embed, self.pos_embed_window, self.pretrain_grid), grid)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, in_chans, height, width] -> maps of the stages, [B, C, H, W] each, strides 4, 8, 16, 32.

        Raises:
            InputError: Another number of channels, or a side that is not a multiple of 32.
        """
        self._check_input(x)
        x = self.patch_embed(x)
        x = x + self.positions(x.shape[1:3])
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.stage_ends:
                maps.append(x.movedim(-1, 1))
        return maps

    def forward_head(self, maps: Sequence[Tensor], pre_logits: bool = False) -> Tensor:
        """The maps of ``forward`` -> logits [B, num_classes], or pooled and normed features with ``pre_logits``."""
        if self.head is None:
            raise InputError("num_classes is None: this HieraDet was made without a head")
        return self.head(maps[-1].movedim(1, -1), pre_logits=pre_logits)

    @torch.no_grad()
    def load_hiera(self, hiera: nn.Module | Mapping[str, Tensor]) -> None:
        """Take the weights of an image Hiera; its head, and this model's own and relative positions, are left.

        Absolute Win positions are taken as they are, but for a global embedding of another size, which is resized, and
        for the antialiasing that Hiera interpolates it with and HieraDet does not. Plain ones, of a square image, are
        split, see `hiera.abswin.split_plain`: exactly if the global embedding has their size, else about.

        Args:
            hiera: The model, or its state dict in our own keys.

        Raises:
            InputError: Something else does not fit; the model is unchanged.
        """
        state = dict(hiera.state_dict() if isinstance(hiera, nn.Module) else hiera)
        own = {key: value for key, value in self.state_dict().items() if "rel_pos" not in key and key[:5] != "head."}
        if {"pos_embed", "pos_embed_win"} <= state.keys():
            window, size = state["pos_embed_win"], own["pos_embed_window"].shape[2:]
            times = [want // have for want, have in zip(size, window.shape[2:], strict=True)]
            state["pos_embed_window"] = window.tile(1, 1, *times)  # a larger window is whole smaller ones
            if state["pos_embed"].shape[2:] != own["pos_embed"].shape[2:]:
                bicubic: Any = {"mode": "bicubic", "antialias": True}
                state["pos_embed"] = F.interpolate(state["pos_embed"], own["pos_embed"].shape[2:], **bicubic)
        elif "pos_embed" in state:
            side = math.isqrt(state["pos_embed"].shape[1])
            if side**2 != state["pos_embed"].shape[1]:
                raise InputError(f"hiera has {state['pos_embed'].shape[1]} positions, which are not those of a square")
            plain = state["pos_embed"].unflatten(1, (side, side))
            sizes = (own[key].shape[2:] for key in ("pos_embed_window", "pos_embed"))
            state["pos_embed"], state["pos_embed_window"], _ = split_plain(plain, *sizes)
        fitting = {key: value for key, value in state.items() if key in own}
        wrong = [key for key, value in fitting.items() if value.shape != own[key].shape]
        lacking = [key for key in own if key not in fitting]
        # what would be left behind: blocks of a deeper model, layer scales
        surplus = [key for key in state if key.startswith("blocks.") and key not in own]
        if wrong or lacking or surplus:
            raise InputError(
                f"hiera does not fit this HieraDet: of another shape {wrong[:3]}, lacking {lacking[:3]}, "
                f"too much {surplus[:3]}"
            )
        self.load_state_dict(fitting, strict=False)

    def _check_input(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            raise InputError(f"x has shape {list(x.shape)}; [batch, {self.in_chans}, height, width] is expected")
        for name, side in zip(("height", "width"), x.shape[2:], strict=True):
            if side % self.multiple or side == 0:
                padded = max(-(-side // self.multiple), 1) * self.multiple
                raise InputError(f"x has {name} {side}, which is not a multiple of {self.multiple}; pad it to {padded}")

    def no_weight_decay(self) -> set[str]:
        """Parameters that optimizers should not decay."""
        return {"pos_embed", "pos_embed_window"}


class _Lateral(nn.Module):
    """A 1x1 convolution under the name that SAM 2's checkpoints have."""

    def __init__(self, channels: int, d_model: int, **dd: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, d_model, 1, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class FpnNeck(nn.Module):
    """SAM 2's feature pyramid: a lateral convolution per level, added top-down on some levels, nothing else.

    Args:
        d_model: Output channels.
        backbone_channel_list: Channels of the maps from the LOWEST resolution to the highest, as SAM 2 lists them.
        levels: Levels (0 is the highest resolution) that get the upsampled map from below added.
        interp: Mode of that upsampling.
        fuse: ``sum`` or ``avg``.
        scalp: How many of the lowest-resolution maps to leave out of the result.
    """

    def __init__(
        self,
        d_model: int,
        backbone_channel_list: Sequence[int],
        levels: Sequence[int] | None = None,
        interp: str = "nearest",
        fuse: str = "sum",
        scalp: int = 0,
        **dd: Any,
    ) -> None:
        super().__init__()
        if fuse not in ("sum", "avg"):
            raise InputError(f"fuse {fuse!r} is not allowed: 'sum' and 'avg' are")
        self.d_model = d_model
        self.convs = nn.ModuleList(_Lateral(channels, d_model, **dd) for channels in backbone_channel_list)
        self.levels = set(range(len(self.convs))) if levels is None else set(levels)
        self.interp = interp
        self.fuse = fuse
        self.scalp = scalp

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps from high to low resolution -> (features, their sine positions), both [B, d_model, H, W]."""
        features: list[Tensor] = []
        below: Tensor | None = None
        for level in range(len(maps) - 1, -1, -1):
            lateral = self.convs[len(maps) - 1 - level](maps[level])
            if level in self.levels and below is not None:
                # in float32, as the original: its maps may be half precision
                up = F.interpolate(below.float(), scale_factor=2, mode=self.interp)
                lateral = lateral + up.to(lateral.dtype)
                lateral = lateral / 2 if self.fuse == "avg" else lateral
            below = lateral
            features.insert(0, lateral)
        features = features[: len(features) - self.scalp]
        return features, [sine_positions(f) for f in features]


class HieraDetFpn(nn.Module):
    """Trunk and feature pyramid, SAM 2's image encoder.

    Args:
        trunk: A HieraDet.
        neck: Its pyramid.
    """

    def __init__(self, trunk: HieraDet, neck: FpnNeck) -> None:
        super().__init__()
        self.trunk = trunk
        self.neck = neck

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """[B, in_chans, height, width] -> (features, their sine positions), high to low resolution."""
        return self.neck(self.trunk(x))


def sine_positions(x: Tensor, temperature: float = 10000.0) -> Tensor:
    """Sine position encoding of a map [B, C, H, W]: C / 2 channels for y, then C / 2 for x, both scaled to 2 pi."""
    batch, channels, height, width = x.shape
    half = channels // 2
    index = torch.arange(half, device=x.device, dtype=torch.float32)
    frequency = temperature ** (2 * (index // 2) / half)

    def axis(size: int) -> Tensor:
        place = torch.arange(1, size + 1, device=x.device, dtype=torch.float32) / (size + 1e-6) * 2 * math.pi
        angle = place[:, None] / frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], 2).flatten(1)

    y = axis(height)[:, None].expand(height, width, half)
    x_ = axis(width)[None].expand(height, width, half)
    return torch.cat([y, x_], -1).permute(2, 0, 1).expand(batch, -1, -1, -1).to(x.dtype)
