"""The vision tower of the Perception Encoder (arXiv 2504.13181, section 2).

A vision transformer with absolute and rotary positions, which it takes at any size of the image. PE-Core pools its
tokens by attention and projects them to an embedding that texts share. PE-Lang and PE-Spatial return the tokens.

Shapes: B batch, N tokens (a class token first, in the models that have one), C channels, E width of the embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from pe_encoder.arguments import check_arguments
from pe_encoder.layers import EPS, AttentionPool, Block, initialise, run_block
from pe_encoder.rope import rotations
from pe_encoder.tracing import is_traced
from plm_core import InputError
from plm_core.utils.ranges import check_choice

GLOBAL_POOL = {"attn": "map", "tok": "token", "avg": "mean", "none": ""}
"""timm's words for the original's ways to pool. ``mean``, over the class token too, is not among timm's."""
POOLS = (*GLOBAL_POOL.values(), "avg")

Depth = int | float
"""A layer: an index from 0, a negative index from the end, or a float, the relative depth from above 0 to 1."""


class VisionTower(nn.Module):
    """A vision tower of the Perception Encoder.

    The first keywords, and the outputs of ``forward`` and ``forward_features``, are the original's. The input may have
    any size: the absolute positions are interpolated, and the rotary ones go on.

    Args:
        patch_size: Side of a patch in pixels.
        width: C, the number of channels.
        layers: Number of blocks.
        heads: Number of attention heads; a head has a multiple of 4 channels.
        mlp_ratio: Ratio of the MLPs' hidden width to ``width``; the product is rounded down.
        output_dim: E, the width of the embedding; None for no projection.
        image_size: Size of the images that the absolute positions are for, in pixels: an int, or (height, width).
        use_cls_token: Whether there is a class token.
        pool_type: How ``forward`` pools the tokens: ``attn`` (attention pool), ``tok`` (the class token), ``avg`` (mean
            of all tokens, the class token too) or ``none``.
        attn_pooler_heads: Number of heads of the attention pool.
        ls_init_value: Initial layer scale; None for no layer scale.
        drop_path: Probability of dropping a branch, the same in all blocks or one for each.
        use_ln_pre: Whether the tokens are normed before the blocks.
        use_ln_post: Whether they are normed after the blocks, before they are pooled.
        use_abs_posemb: Whether there are absolute positions.
        use_rope2d: Whether there are rotary positions.
        in_chans: Number of channels of the images.
        num_classes: Number of outputs of a classifier in place of the projection; None for none.
        global_pool: timm's word for the pooling, in place of ``pool_type``: ``map``, ``token``, ``avg`` (mean of the
            patches) or ``""``.
        drop_rate: Dropout rate before the projection or the classifier.
        img_size: timm's name for ``image_size``.
        resampling: What the tower does with another size than ``image_size``. ``official`` interpolates the absolute
            positions bilinearly and counts the rotary ones on. ``timm`` does as timm's models: bicubic with
            antialiasing, and rotary positions stretched over the grid.
        ragged: Whether an image may have sides that are not multiples of the patch. The pixels right and below are then
            not seen, as in the original. Otherwise such an image is refused.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Attributes:
        grid: Rows and columns of patches in an image of ``image_size``.
        num_prefix_tokens: 1 with a class token, else 0.
        num_features: C.
        feature_info: Channels, reduction and module of each block's map, as timm describes them.

    Raises:
        InputError: An argument is out of its range, or two contradict each other.
    """

    def __init__(
        self,
        patch_size: int = 16,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        output_dim: int | None = 1024,
        image_size: int | Sequence[int] = 224,
        use_cls_token: bool = True,
        pool_type: str = "attn",
        attn_pooler_heads: int = 8,
        ls_init_value: float | None = None,
        drop_path: float | Sequence[float] = 0.0,
        use_ln_pre: bool = True,
        use_ln_post: bool = True,
        use_abs_posemb: bool = True,
        use_rope2d: bool = True,
        *,
        in_chans: int = 3,
        num_classes: int | None = None,
        global_pool: str | None = None,
        drop_rate: float = 0.0,
        img_size: int | Sequence[int] | None = None,
        resampling: str = "official",
        ragged: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_arguments(locals())
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.image_size = _pair(image_size if img_size is None else img_size)
        self.patch_size = patch_size
        self.in_chans = in_chans
        self.resampling = resampling
        self.ragged = ragged
        self.use_rope2d = use_rope2d
        self.attn_pooler_heads = attn_pooler_heads
        self.output_dim = output_dim
        self.num_features = self.embed_dim = self.head_hidden_size = width
        self.num_prefix_tokens = int(use_cls_token)
        self.head_dim = _head_dim(width, heads, "heads", 4 if use_rope2d else 1)
        self.grad_checkpointing = False
        self.grid = self._grid_of(self.image_size, "image_size")

        self.patch_embed = PatchEmbed(None, patch_size, in_chans, width, bias=False, strict_img_size=False, **dd)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width, **dd)) if use_cls_token else None
        tokens = self.num_prefix_tokens + math.prod(self.grid)
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, width, **dd)) if use_abs_posemb else None
        self.norm_pre = nn.LayerNorm(width, EPS, **dd) if use_ln_pre else nn.Identity()
        rates = [drop_path] * layers if isinstance(drop_path, int | float) else list(drop_path)
        if len(rates) != layers:
            raise InputError(
                f"drop_path has {len(rates)} rates; one, or one for each of the {layers} layers, is allowed"
            )
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, ls_init_value, rate, **dd) for rate in rates)
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": width, "reduction": patch_size, "module": f"blocks.{i}"} for i in range(layers)
        ]
        self.norm = nn.LayerNorm(width, EPS, **dd) if use_ln_post else nn.Identity()
        self.attn_pool: AttentionPool | None = None
        self._set_pool(GLOBAL_POOL[pool_type] if global_pool is None else global_pool)
        self.head_drop = nn.Dropout(drop_rate)
        self.num_classes = output_dim or 0 if num_classes is None else num_classes
        self.head = self._new_head(self.num_classes, **dd)
        self._tables: dict[tuple[int, int, str], Tensor] = {}
        if not self.patch_embed.proj.weight.is_meta:
            self._initialise()

    def _set_pool(self, pool: str) -> None:
        if pool == "token" and not self.num_prefix_tokens:
            raise InputError("the pooling by the class token needs a class token")
        if pool == "map" and self.attn_pool is None:
            weight = self.patch_embed.proj.weight
            _head_dim(self.embed_dim, self.attn_pooler_heads, "attn_pooler_heads")
            self.attn_pool = AttentionPool(
                self.embed_dim, self.attn_pooler_heads, device=weight.device, dtype=weight.dtype
            )
        elif pool != "map":
            self.attn_pool = None
        self.global_pool = pool

    def _new_head(self, num_classes: int, **dd: Any) -> nn.Module:
        """Return the projection of the original, which has no bias, or a classifier with a bias, or an identity."""
        if not num_classes:
            return nn.Identity()
        return nn.Linear(self.embed_dim, num_classes, bias=num_classes != self.output_dim, **dd)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Initialise the parameters as the original does. A classifier starts near zero, as timm's."""
        scale = self.embed_dim**-0.5
        for table in (self.cls_token, self.pos_embed):
            if table is not None:
                nn.init.normal_(table, std=scale)
        initialise(self)
        self._initialise_head()

    def _initialise_head(self) -> None:
        if isinstance(self.head, nn.Linear):
            projects = self.head.bias is None
            nn.init.normal_(self.head.weight, std=self.embed_dim**-0.5 if projects else 0.02)
            if not projects:
                nn.init.zeros_(self.head.bias)

    # --- forward ------------------------------------------------------------------------------------------------

    def grid_of(self, x: Tensor) -> tuple[int, int]:
        """Return the rows and columns of patches in images [B, in_chans, H, W].

        Raises:
            InputError: A side has no whole patch, or is no multiple of the patch where the model needs it.
        """
        return self._grid_of(x.shape[2:], "the size of x")

    def _grid_of(self, size: Sequence[int], argument: str) -> tuple[int, int]:
        patch = self.patch_size
        for side in size:
            if side < patch:
                raise InputError(f"{argument} is {tuple(size)}; each side needs at least one patch of {patch} pixels")
            if side % patch and not self.ragged:
                down, up = side // patch * patch, -(-side // patch) * patch
                raise InputError(
                    f"{argument} is {tuple(size)}; {side} is not a multiple of the patch of {patch} pixels: resize to "
                    f"{down} or {up}, or create the model with ragged=True, which ignores the pixels beyond {down}"
                )
        rows, columns = size
        return rows // patch, columns // patch

    def _check_input(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            hint = " (is the batch dimension missing?)" if x.ndim == 3 else ""
            hint = " (a video? see CLIP.encode_video)" if x.ndim == 5 else hint
            raise InputError(f"x has shape {list(x.shape)}; [batch, {self.in_chans}, height, width] is expected{hint}")
        if not x.is_floating_point():
            raise InputError(f"x is {x.dtype}; floats are expected, as pe_encoder.preprocess returns them")

    def positions(self, grid: tuple[int, int]) -> Tensor | None:
        """Return the absolute positions [1, N, C] for a grid, or None if there are none."""
        table = self.pos_embed
        if table is None or (_is_fixed(grid) and grid == self.grid):
            return table
        return resize_positions(table, self.grid, grid, self.num_prefix_tokens, self.resampling)

    def rope(self, grid: tuple[int, int], device: torch.device) -> Tensor | None:
        """Return the rotations for a grid, float32 [N, D] (see `pe_encoder.rope`), or None if there are none."""
        if not self.use_rope2d:
            return None
        key = (*grid, str(device))
        table = self._tables.get(key) if _is_fixed(grid) else None
        if table is None:
            reference = self.grid if self.resampling == "timm" else None
            with torch.inference_mode(False), torch.no_grad():  # a training may use the table later
                table = rotations(grid, self.head_dim, self.num_prefix_tokens > 0, reference, device)
            if _is_fixed(grid) and type(table) is Tensor and not is_traced():
                if len(self._tables) >= MOST_TABLES:
                    self._tables = {}
                self._tables[key] = table
        return table

    def patch_tokens(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Turn images into the input of the first block.

        Args:
            x: [B, in_chans, H, W].

        Returns:
            Tokens [B, N, C] with their absolute positions, normed, and the rotations for the blocks.
        """
        self._check_input(x)
        grid = self.grid_of(x)
        return self.place(self.patch_embed(x), grid)

    def place(
        self, patches: Tensor, grid: tuple[int, int], positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Give embedded patches [B, rows * columns, C] their class token and positions, see `patch_tokens`.

        Args:
            patches: The patches of a grid.
            grid: Its rows and columns.
            positions: Absolute positions [1, N, C] in place of those of `positions`; None for these.
        """
        tokens = patches
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.to(patches.dtype).expand(patches.shape[0], -1, -1), patches], 1)
        positions = self.positions(grid) if positions is None else positions
        if positions is not None:
            tokens = tokens + positions.to(patches.dtype)
        return self.norm_pre(tokens), self.rope(grid, patches.device)

    def run(self, tokens: Tensor, rope: Tensor | None, layer_idx: Depth = -1) -> Tensor:
        """Run the blocks up to a layer on the output of `patch_tokens`: [B, N, C] -> [B, N, C]."""
        for block in islice(self.blocks, layer_index(layer_idx, len(self.blocks)) + 1):  # a slice makes a new module
            tokens = run_block(block, tokens, rope, self.grad_checkpointing)
        return tokens

    def forward_features(
        self, x: Tensor, norm: bool = False, layer_idx: Depth = -1, strip_cls_token: bool = False
    ) -> Tensor:
        """Return the tokens of a layer, by default before the norm after the blocks, as the original does.

        The method of this name of timm's models returns normed tokens.

        Args:
            x: [B, in_chans, H, W].
            norm: Whether to apply the norm after the blocks, if the model has one. `forward_head` applies it too, so it
                takes tokens without it.
            layer_idx: The layer; the blocks after it do not run. An index from 0, a negative one from the end, or a
                float for the relative depth, such as one of ``pe_encoder.BEST_LAYER``.
            strip_cls_token: Whether to leave the class token out, if there is one.

        Returns:
            [B, N, C], in row-major order, the class token first.
        """
        tokens = self.run(*self.patch_tokens(x), layer_idx)
        tokens = self.norm(tokens) if norm else tokens
        return tokens[:, self.num_prefix_tokens :] if strip_cls_token else tokens

    def pool(self, tokens: Tensor) -> Tensor:
        """Pool normed tokens: [B, N, C] -> [B, C], or the tokens themselves where the model does not pool."""
        if self.attn_pool is not None:
            return self.attn_pool(tokens)
        if self.global_pool == "token":
            return tokens[:, 0]
        if self.global_pool == "avg":
            return tokens[:, self.num_prefix_tokens :].mean(1)
        return tokens.mean(1) if self.global_pool == "mean" else tokens

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Norm, pool and project the tokens of `forward_features`.

        Args:
            x: Tokens [B, N, C] before the last norm.
            pre_logits: Whether to leave the projection out.

        Returns:
            The embedding [B, E], or [B, C] without projection; for a model that does not pool, the same for each token.
        """
        pooled = self.head_drop(self.pool(self.norm(x)))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Embed images [B, in_chans, H, W] as [B, E], or return their tokens [B, N, C] if the model does not pool."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return the maps of several blocks.

        Args:
            x: [B, in_chans, H, W].
            indices: Blocks to return: the last n for an int n, all for None, or a list of indices.
            return_prefix_tokens: Whether to return each map as a tuple with the class token, [B, 1 or 0, C].
            norm: Whether to apply the norm after the blocks to every map, as timm does.
            stop_early: Whether to stop after the last block that a map needs.
            output_fmt: ``NCHW`` ([B, C, rows, columns]) or ``NLC`` ([B, rows * columns, C]).
            intermediates_only: Whether to return the maps alone.

        Returns:
            The list of maps. Unless ``intermediates_only``, a tuple of the last executed block's tokens, in the form of
            `forward_features`, and that list.
        """
        check_choice("output_fmt", output_fmt, ("NCHW", "NLC"))
        taken, last = feature_take_indices(len(self.blocks), indices)
        tokens, rope = self.patch_tokens(x)
        maps: list[Any] = []
        for i, block in enumerate(self.blocks[: last + 1] if stop_early else self.blocks):
            tokens = run_block(block, tokens, rope, self.grad_checkpointing)
            if i in taken:
                maps.append(self._map(self.norm(tokens) if norm else tokens, x.shape[2:], output_fmt))
        if not return_prefix_tokens:
            maps = [feature_map for feature_map, _ in maps]
        return maps if intermediates_only else (tokens, maps)

    def _map(self, tokens: Tensor, size: Sequence[int], output_fmt: str) -> tuple[Tensor, Tensor]:
        """Return the patch tokens in a format, and the class token [B, 1 or 0, C]."""
        prefix, patches = tokens[:, : self.num_prefix_tokens], tokens[:, self.num_prefix_tokens :]
        if output_fmt == "NCHW":
            rows, columns = self._grid_of(size, "the size of x")
            patches = patches.transpose(1, 2).reshape(patches.shape[0], patches.shape[2], rows, columns)
        return patches, prefix

    # --- changes of the model -----------------------------------------------------------------------------------

    def truncate(self, layer_idx: Depth) -> int:
        """Drop the blocks after a layer for good.

        Returns:
            The number of blocks that are left.
        """
        self.blocks = self.blocks[: layer_index(layer_idx, len(self.blocks)) + 1]
        self.feature_info = self.feature_info[: len(self.blocks)]
        return len(self.blocks)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the blocks that the maps at ``indices`` do not need, and on request the norm, the pool and the head."""
        taken, last = feature_take_indices(len(self.blocks), indices)
        self.truncate(last)
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return list(taken)

    def set_input_size(self, img_size: int | Sequence[int]) -> None:
        """Make another size the model's own: the absolute positions are resized for good, by ``resampling``."""
        size = _pair(img_size)
        grid = self._grid_of(size, "img_size")
        if self.pos_embed is not None:
            with torch.no_grad():
                table = resize_positions(self.pos_embed, self.grid, grid, self.num_prefix_tokens, self.resampling)
            self.pos_embed = nn.Parameter(table, self.pos_embed.requires_grad)
        self.image_size, self.grid, self._tables = size, grid, {}
        arguments: Any = getattr(self, "_model_args", None)
        if arguments is not None:  # timm's record of the keywords, of which a model folder is made
            self._model_args = {**arguments, "img_size": size}

    def resample(self, key: str, table: Tensor) -> Tensor:
        """Resize a checkpoint's position table from another image size to this model's; other tensors stay.

        The tables of checkpoints are assumed to be square, as all published ones are.
        """
        patches = table.shape[1] - self.num_prefix_tokens if key == "pos_embed" and table.ndim == 3 else 0
        side = math.isqrt(max(patches, 0))
        if self.pos_embed is None or not patches or side * side != patches:
            return table
        return resize_positions(table, (side, side), self.grid, self.num_prefix_tokens, self.resampling)

    def why_not(self, state: Mapping[str, Tensor]) -> str:
        """Say why a file with these tensors, by their names in the file, does not fit this tower."""
        bias = next((tensor for name, tensor in state.items() if f".{name}".endswith(".head.bias")), None)
        projects = isinstance(self.head, nn.Linear) and self.head.bias is None
        if projects and bias is not None and not bias.is_meta and bool(bias.any()):
            return "the projection has no bias here, so only a head.bias of zeros can be left out, and this one is not"
        return ""

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that optimizers should not decay."""
        return {"pos_embed", "cls_token", "attn_pool.latent"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the patterns that group parameters for layer decay: the stem, each block, and what follows."""
        return {
            "stem": r"^cls_token|^pos_embed|^patch_embed|^norm_pre",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the blocks again in the backward pass of a training, instead of keeping their activations."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """Return the projection or the classifier."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the projection with an untrained classifier, or with none for 0 classes.

        Args:
            num_classes: Number of outputs. With as many as the embedding has, it is a projection without a bias.
            global_pool: timm's word for the pooling; None for no change.
        """
        if global_pool is not None:
            check_choice("global_pool", global_pool, POOLS)
            self._set_pool(global_pool)
        weight = self.patch_embed.proj.weight
        self.num_classes = num_classes
        self.head = self._new_head(num_classes, device=weight.device, dtype=weight.dtype)
        if not weight.is_meta:
            self._initialise_head()
        config: Any = getattr(self, "pretrained_cfg", None)  # timm's, on a model from create_model
        if config:
            self.pretrained_cfg = {**config, "label_names": None}


MOST_TABLES = 8
"""The most tables of rotations that a tower keeps, one for each grid and device."""


def vision_tower(drop_path_rate: float = 0.0, layers: int = 12, ragged: bool = False, **kwargs: Any) -> VisionTower:
    """Build a vision tower by timm's conventions: the rate of dropped paths rises by depth, and sizes must fit."""
    check_arguments({"drop_path_rate": drop_path_rate, "layers": layers})
    rates = [drop_path_rate * i / max(layers - 1, 1) for i in range(layers)]
    return VisionTower(layers=layers, drop_path=rates, ragged=ragged, **kwargs)


def layer_index(layer_idx: Depth, depth: int) -> int:
    """Return the index of a layer from 0 on.

    Args:
        layer_idx: An index from 0 to ``depth - 1``, a negative one from the end, or a float, the relative depth: 1.0
            for the last layer, 0.5 for the layer half way.
        depth: Number of layers.

    Raises:
        InputError: There is no such layer.

    Example:
        >>> layer_index(-1, 12), layer_index(0.5, 12), layer_index(1.0, 12)
        (11, 5, 11)
    """
    if isinstance(layer_idx, float):
        if not 0 < layer_idx <= 1:
            raise InputError(f"layer_idx is {layer_idx}; a relative depth is above 0 and at most 1")
        return max(round(layer_idx * depth), 1) - 1
    if isinstance(layer_idx, bool) or not isinstance(layer_idx, int) or not -depth <= layer_idx < depth:
        raise InputError(f"layer_idx is {layer_idx!r}; {-depth} to {depth - 1}, or a relative depth, is allowed")
    return layer_idx % depth


def resize_positions(
    table: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int, resampling: str = "official"
) -> Tensor:
    """Resize absolute positions from one grid to another: [1, prefix + N, C] -> [1, prefix + N', C]."""
    if resampling == "timm":
        resized: Tensor = resample_abs_pos_embed(table, list(new), list(old), prefix)
        return resized
    patches = table[:, prefix:].unflatten(1, old).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=new, mode="bilinear", align_corners=False)
    return torch.cat([table[:, :prefix], patches.flatten(2).transpose(1, 2)], 1)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    rows, columns = (size, size) if isinstance(size, int) else size
    return rows, columns


def _head_dim(width: int, heads: int, name: str, multiple: int = 1) -> int:
    if width % (heads * multiple):
        least = f"a multiple of {multiple} channels" if multiple > 1 else "a whole number of channels"
        raise InputError(f"width {width} is not allowed with {name} {heads}: each head needs {least}")
    return width // heads


def _is_fixed(grid: Sequence[Any]) -> bool:
    """Return whether sizes are plain numbers, and not the unknowns of an export with dynamic sizes."""
    return all(type(side) is int for side in grid)
