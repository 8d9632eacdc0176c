"""Hiera: a hierarchical vision transformer without convolutions, relative positions or shifted windows.

Paper: "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles" (arXiv 2306.00989), section 3. One
class serves signals (1-D), images (2-D) and video (3-D). The paper's sizes are in `hiera.configs`.

Tokens have the shape [B, U, T, C] from the patch embedding to the head; `hiera.tokens` explains their order.
Shapes: B batch, U mask units, T tokens per unit, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import ClNormMlpClassifierHead, trunc_normal_
from timm.models import adapt_input_conv
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from hiera.abswin import abs_win
from hiera.arguments import check_arguments
from hiera.layers import LAYER_NORM, HieraBlock, NormLayer, PatchEmbed, run_block
from hiera.stages import plan_blocks, stage_ends
from hiera.tokens import channels_first, channels_last, is_fixed, official_order, reroll, reroll_units, unroll
from plm_core import InputError
from plm_core.blocks import take_rows
from plm_core.utils.ranges import check_choice

FORMATS = ("NCHW", "NHWC", "NLC")
"""timm's formats of feature maps."""
DIMENSION_NAMES = {1: ("length",), 2: ("height", "width"), 3: ("time", "height", "width")}


class Hiera(nn.Module):
    """A Hiera for images, video or signals.

    The keywords of the constructor and the outputs of ``forward`` are the original's: probabilities in eval mode,
    logits in train mode. The models that timm creates are built with ``probabilities=False`` and always return logits.

    The input may have another size than ``input_size`` as long as each side is a multiple of patch stride times mask
    unit (32 for the paper's images). The position embedding is then interpolated, which costs accuracy
    ("Window Attention is Bugged", arXiv 2311.05613, section 3), so finetune at the new size.

    Args:
        input_size: Input size of the position embedding: (height, width), (frames, height, width) or (length,).
        in_chans: Number of input channels.
        embed_dim: Number of channels in the first stage.
        num_heads: Number of attention heads in the first stage.
        num_classes: Number of classes; 0 for no classifier.
        stages: Number of blocks in each stage.
        q_pool: Number of stage transitions that pool.
        q_stride: Pooling stride per dimension.
        mask_unit_size: Size of a mask unit in tokens per dimension; must be ``q_stride ** (len(stages) - 1)``.
        mask_unit_attn: For each stage, whether attention stays inside mask units. The first block of a stage still
            follows the stage before (section 3.2: attention changes after pooling).
        dim_mul: Factor on the number of channels from one stage to the next.
        head_mul: Factor on the number of heads from one stage to the next.
        patch_kernel: Kernel size of the patch embedding.
        patch_stride: Stride of the patch embedding.
        patch_padding: Padding of the patch embedding.
        mlp_ratio: Ratio of an MLP's hidden width to the block's width.
        drop_path_rate: Drop path rate of the last block; the rate rises linearly from 0 at the first block.
        norm_layer: Norm constructor, called with the width.
        head_dropout: Dropout rate before the classifier.
        head_init_scale: Factor on the classifier's initial parameters.
        sep_pos_embed: Whether space and time have separate position embeddings (video).
        abs_win_pos_embed: Whether to use Absolute Win (arXiv 2311.05613): the position embedding is the sum of a tiled
            window embedding and an interpolated global embedding, at every input size.
        global_pos_size: Size of the global embedding per dimension.
        global_pos_antialias: Whether the global embedding is interpolated with antialiasing. timm's Hiera does so,
            SAM 2 does not.
        init_values: Initial layer scale; None for no layer scale.
        use_expand_proj: Whether a projection widens the residuals, as in the original; see `HieraBlock`.
        img_size: timm's name for ``input_size``; an int stands for a square.
        global_pool: ``avg``, ``max``, ``avgmax`` or ``""``, as in timm.
        probabilities: Whether to apply a softmax in eval mode, as the original does.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Attributes:
        steps: Number of poolings that turn a mask unit into a single token: the number of stages less one.
        stage_steps: For each stage, the number of poolings still possible in the mask units of its map.
        stage_ends: Index of the last block of each stage.
        unit_pixels: Size of a mask unit in pixels per dimension; input sides must be multiples of it.
        grid: Size of the input in tokens per dimension.
        feature_info: Channels, reduction and module of each stage's map, as timm describes them.

    Raises:
        InputError: The configuration contradicts itself.
    """

    def __init__(
        self,
        input_size: Sequence[int] = (224, 224),
        in_chans: int = 3,
        embed_dim: int = 96,
        num_heads: int = 1,
        num_classes: int = 1000,
        stages: Sequence[int] = (2, 3, 16, 3),
        q_pool: int = 3,
        q_stride: Sequence[int] = (2, 2),
        mask_unit_size: Sequence[int] = (8, 8),
        mask_unit_attn: Sequence[bool] = (True, True, False, False),
        dim_mul: float = 2.0,
        head_mul: float = 2.0,
        patch_kernel: Sequence[int] = (7, 7),
        patch_stride: Sequence[int] = (4, 4),
        patch_padding: Sequence[int] = (3, 3),
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        norm_layer: NormLayer = LAYER_NORM,
        head_dropout: float = 0.0,
        head_init_scale: float = 0.001,
        sep_pos_embed: bool = False,
        *,
        abs_win_pos_embed: bool = False,
        global_pos_size: Sequence[int] = (14, 14),
        global_pos_antialias: bool = True,
        init_values: float | None = None,
        use_expand_proj: bool = True,
        img_size: int | Sequence[int] | None = None,
        global_pool: str = "avg",
        probabilities: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_arguments(locals())
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.probabilities = probabilities
        self.grad_checkpointing = False
        if img_size is not None:
            space = (img_size,) * min(2, len(q_stride)) if isinstance(img_size, int) else tuple(img_size)
            # The number of frames stays unless img_size has one.
            input_size = (*input_size[: len(q_stride) - len(space)], *space)
        self._set_geometry(input_size, patch_stride, q_stride, mask_unit_size, stages, q_pool)
        self._check_configuration(stages, mask_unit_size, patch_kernel, patch_padding, q_pool, mask_unit_attn)
        self.stage_ends = stage_ends(stages)
        self.grid = tuple(i // p for i, p in zip(self.input_size, patch_stride, strict=True))

        self.patch_embed = PatchEmbed(in_chans, embed_dim, patch_kernel, patch_stride, patch_padding, **dd)
        self.global_pos_antialias = global_pos_antialias
        self.pos_embed: nn.Parameter | None = None
        self.pos_embed_win: nn.Parameter | None = None
        global_size = tuple(global_pos_size) if abs_win_pos_embed else None
        self._make_positions(embed_dim, tuple(mask_unit_size), global_size, sep_pos_embed, dd)

        plans = plan_blocks(
            stages,
            embed_dim,
            num_heads,
            q_pool=q_pool,
            dim_mul=dim_mul,
            head_mul=head_mul,
            drop_path_rate=drop_path_rate,
        )
        self.blocks = nn.ModuleList(
            HieraBlock(
                plan.dim,
                plan.dim_out,
                plan.num_heads,
                mlp_ratio=mlp_ratio,
                drop_path=plan.drop_path,
                norm_layer=norm_layer,
                q_stride=math.prod(q_stride) if plan.pools else 1,
                local=mask_unit_attn[plan.attends_as],
                init_values=init_values,
                expand_proj=use_expand_proj,
                **dd,
            )
            for plan in plans
        )
        self.feature_info: list[dict[str, Any]] = [
            {
                "num_chs": plan.dim_out,
                "reduction": patch_stride[-1] * q_stride[-1] ** plan.poolings,
                "module": f"blocks.{i}",
            }
            for i, plan in enumerate(plans)
            if plan.ends_stage
        ]
        self.num_features = plans[-1].dim_out
        self.head = ClNormMlpClassifierHead(
            self.num_features,
            num_classes,
            pool_type=global_pool,
            drop_rate=head_dropout,
            norm_layer=norm_layer,
            input_fmt="NLC",
            **dd,
        )
        self.head_hidden_size = self.head.num_features
        self._init_weights(head_init_scale)

    def _set_geometry(
        self,
        input_size: Sequence[int],
        patch_stride: Sequence[int],
        q_stride: Sequence[int],
        mask_unit_size: Sequence[int],
        stages: Sequence[int],
        q_pool: int,
    ) -> None:
        self.input_size = tuple(input_size)
        self.patch_stride = tuple(patch_stride)
        self.q_stride = tuple(q_stride)
        self.steps = len(stages) - 1
        self.stage_steps = [self.steps - min(stage, q_pool) for stage in range(len(stages))]
        self.unit_pixels = tuple(p * u for p, u in zip(patch_stride, mask_unit_size, strict=False))

    def _make_positions(
        self, dim: int, window: tuple[int, ...], global_size: tuple[int, ...] | None, separate: bool, dd: dict[str, Any]
    ) -> None:
        """Create the position embedding: one table, one for space and one for time, or window and global (abs-win)."""

        def table(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(1, *shape, **dd))

        if global_size is not None:
            if separate or len(self.grid) != 2:
                raise InputError("abs_win_pos_embed is for images, without sep_pos_embed")
            self.pos_embed, self.pos_embed_win = table(dim, *global_size), table(dim, *window)
        elif separate:
            if len(self.grid) < 2:
                raise InputError(f"sep_pos_embed is for video; input_size {self.input_size} has no space beside time")
            self.pos_embed_spatial = table(math.prod(self.grid[1:]), dim)
            self.pos_embed_temporal = table(self.grid[0], dim)
        else:
            self.pos_embed = table(math.prod(self.grid), dim)

    def _check_configuration(
        self,
        stages: Sequence[int],
        unit: Sequence[int],
        kernel: Sequence[int],
        padding: Sequence[int],
        q_pool: int,
        mask_unit_attn: Sequence[bool],
    ) -> None:
        dims = len(self.input_size)
        per_dimension = {"q_stride": self.q_stride, "mask_unit_size": unit, "patch_stride": self.patch_stride}
        for name, value in {**per_dimension, "patch_kernel": kernel, "patch_padding": padding}.items():
            if len(value) != dims or dims not in DIMENSION_NAMES:
                raise InputError(
                    f"{name} {tuple(value)} does not have one entry for each of input_size {self.input_size}"
                )
        unit_size = tuple(s**self.steps for s in self.q_stride)
        if tuple(unit) != unit_size:
            raise InputError(f"mask_unit_size {tuple(unit)} must be q_stride ** (stages - 1) = {unit_size}")
        if not 0 <= q_pool <= self.steps:
            raise InputError(f"q_pool {q_pool} must be from 0 to {self.steps}, the number of stages less one")
        if len(mask_unit_attn) <= self.steps:
            raise InputError(
                f"mask_unit_attn {tuple(mask_unit_attn)} needs one entry for each of {self.steps + 1} stages"
            )
        self._check_size(self.input_size, "input_size")
        for size, k, s, p in zip(self.input_size, kernel, self.patch_stride, padding, strict=True):
            if (size + 2 * p - k) // s + 1 != size // s:
                raise InputError(f"patch_kernel {k} with padding {p} does not give size / stride patches (stride {s})")

    def _check_size(self, size: Sequence[int], argument: str) -> None:
        for name, side, multiple in zip(DIMENSION_NAMES[len(size)], size, self.unit_pixels, strict=True):
            if side % multiple or side == 0:
                padded = max(-(-side // multiple), 1) * multiple
                raise InputError(
                    f"{argument} has {name} {side}, which is not a multiple of {multiple} (patch stride x mask unit); "
                    f"pad it to {padded}"
                )

    def _check_input(self, x: Tensor) -> None:
        names = DIMENSION_NAMES[len(self.input_size)]
        if x.ndim != len(names) + 2:
            raise InputError(
                f"x has shape {list(x.shape)}; [batch, {self.in_chans}, {', '.join(names)}] is expected"
                + (" (is the batch dimension missing?)" if x.ndim == len(names) + 1 else "")
            )
        if x.shape[1] != self.in_chans:
            raise InputError(
                f"x has {x.shape[1]} channels in shape {list(x.shape)}; {self.in_chans} are expected at dim 1"
            )
        self._check_size(x.shape[2:], "x")

    def _init_weights(self, head_init_scale: float) -> None:
        """Initialise the parameters as the original does: biases of Linear and LayerNorm start at 0.02, not at 0."""
        if next(self.parameters()).is_meta:  # nothing to draw, which takes torch a second for a large model
            return
        for name, parameter in self.named_parameters(recurse=False):
            if name.startswith("pos_embed"):
                trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
                trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
                nn.init.constant_(module.bias, 0.02)
        self._scale_head(head_init_scale)

    @torch.no_grad()
    def _scale_head(self, scale: float) -> None:
        for parameter in self.head.fc.parameters():
            parameter.mul_(scale)

    # --- forward ------------------------------------------------------------------------------------------------

    def positions(self, grid: tuple[int, ...]) -> Tensor:
        """Return the position embedding [1, *grid, C], interpolated unless ``grid`` is the model's own."""
        if self.pos_embed is not None and self.pos_embed_win is not None:
            return abs_win(self.pos_embed, self.pos_embed_win, grid, self.global_pos_antialias)
        if self.pos_embed is not None:
            return resize_table(self.pos_embed.unflatten(1, self.grid), grid)
        spatial = resize_table(self.pos_embed_spatial.unflatten(1, self.grid[1:]), grid[1:])
        temporal = resize_table(self.pos_embed_temporal, grid[:1])
        return spatial[:, None] + temporal.unflatten(1, (-1, *[1] * (len(grid) - 1)))

    def patch_tokens(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Turn an input into patch tokens with positions, [B, U, T, C]; with a mask, only those of the U kept units.

        Args:
            x: [B, in_chans, *size].
            mask: Mask units to keep: bool [B, units] with the same number of True in every row, or their indices,
                int64 [B, kept]. Use indices to compile or export the model: only they make all shapes static.
        """
        self._check_input(x)
        if mask is None:
            return self._whole_tokens(x)
        return self.unit_tokens(x, self.keep_indices(mask, x.shape[0], math.prod(self._units(x.shape))))

    def unit_tokens(self, x: Tensor, keep: Tensor) -> Tensor:
        """Turn an input into the patch tokens of the mask units at ``keep``, int64 [B, U]."""
        units = self._units(x.shape)
        # Patches overlap, so without this the pixels of dropped units would reach kept tokens.
        kept = x.new_zeros(x.shape[0], math.prod(units)).scatter(1, keep, 1)
        x = x * F.interpolate(kept.view(-1, 1, *units), size=x.shape[2:], mode="nearest")
        return take_rows(self._whole_tokens(x), keep)

    def _whole_tokens(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        return unroll(x + self.positions(tuple(x.shape[1:-1])), self.q_stride, self.steps)

    def _units(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the grid of mask units of an input of this shape."""
        return tuple(side // pixels for side, pixels in zip(shape[2:], self.unit_pixels, strict=True))

    @staticmethod
    def keep_indices(mask: Tensor, batch: int, units: int) -> Tensor:
        """Return the indices of the kept mask units, int64 [B, kept], from a mask in either form.

        Raises:
            InputError: The mask has another dtype or shape, its rows keep different numbers of units, or it keeps none.
                Indices that are out of range or repeated are refused too, except while compiling.
        """
        if mask.dtype == torch.int64 and mask.ndim == 2 and mask.shape[0] == batch and 0 < mask.shape[1] <= units:
            if not (torch.compiler.is_compiling() or mask.is_meta):
                ascending = mask.sort(1).values
                if bool((ascending[:, 0] < 0).any() | (ascending[:, -1] >= units).any()):
                    low, high = int(mask.min()), int(mask.max())
                    raise InputError(f"mask has indices from {low} to {high}; 0 to {units - 1} are allowed")
                if bool((ascending[:, 1:] == ascending[:, :-1]).any()):
                    raise InputError("mask names a mask unit twice in one row")
            return mask
        if mask.dtype != torch.bool or tuple(mask.shape) != (batch, units):
            raise InputError(
                f"mask is {mask.dtype} {list(mask.shape)}; torch.bool [{batch}, {units}] is expected (True = keep), "
                f"or the kept indices, torch.int64 [{batch}, 1 to {units}]"
            )
        kept = mask.sum(1)
        if not bool((kept == kept[0]).all()) or int(kept[0]) == 0:
            raise InputError(f"mask keeps {kept.tolist()} mask units; each row must keep the same number, at least one")
        return mask.nonzero()[:, 1].view(batch, -1)

    def _run(self, block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return run_block(block, x, self.grad_checkpointing)

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, in_chans, *size] -> tokens of the last stage before the norm, [B, N, C] in row-major spatial order."""
        size = x.shape
        x = self.patch_tokens(x)
        for block in self.blocks:
            x = self._run(block, x)
        return reroll(x, self._units(size), self.q_stride, self.stage_steps[-1]).flatten(1, -2)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map tokens [B, N, C] to logits [B, num_classes], or with ``pre_logits`` to pooled, normed features [B, C]."""
        return self.head(x, pre_logits=pre_logits)

    def forward(
        self, x: Tensor | Sequence[Tensor], mask: Tensor | None = None, return_intermediates: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Classify the input, or with a mask encode the kept mask units.

        Args:
            x: [B, in_chans, *size]. Of a list, only the first element is used.
            mask: bool [B, mask units], row-major, True = keep, or the indices of the kept units, int64 [B, kept]. With
                a mask the result is the tokens, without pooling, norm and head.
            return_intermediates: Whether to return the output of each stage too, channels-last: [B, *grid, C], or
                [B, kept, *unit grid, C] with a mask.

        Returns:
            [B, num_classes] (probabilities in eval mode unless ``probabilities`` is off), or with a mask
            [B, kept tokens, C] in the original's order. With ``return_intermediates``, a tuple of that and the list of
            stage outputs.
        """
        image = x if isinstance(x, Tensor) else x[0]
        x = self.patch_tokens(image, mask)
        intermediates = []
        for i, block in enumerate(self.blocks):
            x = self._run(block, x)
            if return_intermediates and i in self.stage_ends:
                steps = self.stage_steps[self.stage_ends.index(i)]
                intermediates.append(
                    reroll(x, self._units(image.shape), self.q_stride, steps)
                    if mask is None
                    else reroll_units(x, self.q_stride, steps)
                )
        x = official_order(x)
        if mask is None:
            x = self.forward_head(x)
            if self.probabilities and self.num_classes and not self.training:
                x = x.softmax(-1)
        return (x, intermediates) if return_intermediates else x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return feature maps of the stages, in natural spatial order.

        Args:
            x: [B, in_chans, *size].
            indices: Stages to return: the last n for an int n, all for None, or a list of stage indices.
            norm: Whether to apply the head's norm to the map of the last stage, the only one that the norm is for.
            stop_early: Whether to stop after the last block that a map needs.
            output_fmt: ``NCHW`` ([B, C, *grid], also for video), ``NHWC`` or ``NLC``.
            intermediates_only: Whether to return the maps alone.

        Returns:
            The list of maps. Unless ``intermediates_only``, a tuple of the last executed block's tokens, in the form of
            ``forward_features``, and that list.
        """
        check_choice("output_fmt", output_fmt, FORMATS)
        returned_stages, last = feature_take_indices(len(self.stage_ends), indices)
        size = x.shape
        x = self.patch_tokens(x)
        units = self._units(size)
        maps = []
        steps = self.stage_steps[0]
        for i, block in enumerate(self.blocks[: self.stage_ends[last] + 1] if stop_early else self.blocks):
            x = self._run(block, x)
            if i not in self.stage_ends:
                continue
            stage = self.stage_ends.index(i)
            steps = self.stage_steps[stage]
            if stage in returned_stages:
                y = self.head.norm(x) if norm and stage == len(self.stage_ends) - 1 else x
                maps.append(format_map(reroll(y, units, self.q_stride, steps), output_fmt))
        if intermediates_only:
            return maps
        return reroll(x, units, self.q_stride, steps).flatten(1, -2), maps

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the blocks that the feature maps at ``indices`` do not need, and on request norm and head."""
        kept_stages, last = feature_take_indices(len(self.stage_ends), indices)
        self.blocks = self.blocks[: self.stage_ends[last] + 1]
        if prune_head:
            self.head.reset(0, reset_other=prune_norm)
        return list(kept_stages)

    def resample(self, key: str, table: Tensor) -> Tensor:
        """Resize a checkpoint's plain position table from another input size to this model's.

        The result is the table that the checkpoint's own model would use in ``forward`` at this model's input size.
        Spatial tables are assumed to be square, as all published ones are. The patch embedding of RGB clips is adapted
        to other channels as timm does for images: their sum for one channel. Any other tensor is returned unchanged.
        """
        if key == "patch_embed.proj.weight" and table.ndim == 5 and table.shape[1] == 3:
            frames = adapt_input_conv(self.in_chans, table.movedim(2, 1).flatten(0, 1))
            return frames.unflatten(0, (table.shape[0], table.shape[2])).movedim(1, 2)
        grid = self._table_grid(key)
        if grid is None or table.ndim != 3:
            return table
        side = table.shape[1] if len(grid) == 1 else math.isqrt(table.shape[1])
        if side ** len(grid) != table.shape[1]:
            return table
        return resize_table(table.float().unflatten(1, (side,) * len(grid)), grid).flatten(1, -2).to(table.dtype)

    def _table_grid(self, key: str) -> tuple[int, ...] | None:
        """Return the grid of a position table that can be resampled (in one or two dimensions), else None."""
        if key == "pos_embed" and self.pos_embed_win is None and len(self.grid) < 3:
            return self.grid
        return {"pos_embed_spatial": self.grid[1:], "pos_embed_temporal": self.grid[:1]}.get(key)

    # --- timm's model interface ---------------------------------------------------------------------------------

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that optimizers should not decay."""
        return {name for name, _ in self.named_parameters(recurse=False) if name.startswith("pos_embed")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the patterns that group parameters for layer decay: positions and patches, each block, the head."""
        return {"stem": r"^pos_embed|^patch_embed", "blocks": r"^blocks\.(\d+)"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """Return the classifier layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier with an untrained one, or with none for 0 classes. The old classes' names go too."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)
        config: Any = getattr(self, "pretrained_cfg", None)  # timm's, on a model from create_model
        if config:
            self.pretrained_cfg = {**config, "label_names": None}


def classifier(drop_rate: float = 0.0, **kwargs: Any) -> Hiera:
    """Build a Hiera by timm's conventions: logits in eval mode too, and ``drop_rate`` before the classifier."""
    return Hiera(probabilities=False, head_dropout=drop_rate, **kwargs)


def format_map(x: Tensor, output_fmt: str) -> Tensor:
    """Convert a feature map [B, *grid, C] to one of timm's formats."""
    if output_fmt == "NHWC":
        return x
    return channels_first(x).contiguous() if output_fmt == "NCHW" else x.flatten(1, -2)


def resize_table(table: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Resize a table [1, *old, C] to [1, *grid, C]: bicubic in 2-D, linear in 1-D and 3-D, unchanged if sizes agree."""
    if is_fixed(grid) and tuple(table.shape[1:-1]) == tuple(grid):
        return table
    mode = {1: "linear", 2: "bicubic", 3: "trilinear"}[len(grid)]
    return channels_last(F.interpolate(channels_first(table), size=tuple(grid), mode=mode, align_corners=False))
