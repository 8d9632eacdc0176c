"""Masked autoencoding with Hiera (Hiera paper, section 4): the encoder receives only the kept mask units.

Dropped mask units cost nothing, because only the tokens of kept units go through the encoder. The features of all
stages are fused per mask unit, and a plain decoder predicts the pixels of the dropped units.

Shapes: B batch, U mask units, K kept mask units, P predictions per mask unit, N predictions in all, M predictions of
masked units, C channels, D decoder width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from hiera.arguments import check_arguments
from hiera.layers import LAYER_NORM, HieraBlock, NormLayer
from hiera.model import FORMATS, Hiera, format_map, resize_table
from hiera.tokens import channels_first, channels_last, reroll_units
from plm_core import InputError, NotSupported
from plm_core.blocks import take_rows
from plm_core.utils.ranges import check_choice


class DecoderBlock(HieraBlock):
    """A block whose output can be computed for a subset of the tokens."""

    def forward(self, x: Tensor, at: Tensor | None = None) -> Tensor:
        """[B, 1, N, D] -> [B, 1, N, D], or [B, 1, M, D] at the tokens of ``at``, int64 [B, M].

        Keys and values come from all tokens; queries and MLP are computed for the tokens of ``at`` only. Blocks of the
        decoder have neither drop path nor layer scale.
        """
        if at is None:
            return super().forward(x)
        q, k, v = self.attn.project(self.norm1(x))
        attended = F.scaled_dot_product_attention(take_rows(q, at, 2), k, v)
        return self.mlp_residual(take_rows(x, at, 2) + self.attn.merge(attended, x.shape[0], 1))


class MaskedAutoencoderHiera(Hiera):
    """A Hiera with the decoder that pretrains it.

    The keywords of the constructor and the outputs of ``forward`` are the original's. Without a mask the model is an
    encoder: ``forward_features`` returns the fused and normed features of the whole input, ``forward_head`` their mean.
    It has no classifier; see `plain_encoder`.

    Args:
        in_chans: Number of input channels.
        patch_stride: Stride of the patch embedding, as for `Hiera`.
        mlp_ratio: Ratio of an MLP's hidden width to the block's width, for encoder and decoder.
        decoder_embed_dim: Width of the decoder.
        decoder_depth: Number of blocks in the decoder.
        decoder_num_heads: Number of attention heads in the decoder.
        norm_layer: Norm constructor, called with the width.
        q_pool: Number of stage transitions that pool. It is 2 in the paper, where a mask unit then has 2 x 2
            predictions of 16 x 16 pixels.
        **kwargs: Further keyword arguments of `Hiera`.
    """

    def __init__(
        self,
        in_chans: int = 3,
        patch_stride: Sequence[int] = (4, 4),
        mlp_ratio: float = 4.0,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        norm_layer: NormLayer = LAYER_NORM,
        q_pool: int = 2,
        **kwargs: Any,
    ) -> None:
        check_arguments(locals())
        if decoder_embed_dim % decoder_num_heads:
            raise InputError(
                f"decoder_embed_dim {decoder_embed_dim} is not a multiple of decoder_num_heads {decoder_num_heads}"
            )
        super().__init__(
            in_chans=in_chans,
            patch_stride=patch_stride,
            mlp_ratio=mlp_ratio,
            norm_layer=norm_layer,
            q_pool=q_pool,
            **{**kwargs, "num_classes": 0},
        )
        dd: dict[str, Any] = {"device": kwargs.get("device"), "dtype": kwargs.get("dtype")}
        self.trunk_kwargs = {
            **kwargs,
            "in_chans": in_chans,
            "patch_stride": patch_stride,
            "mlp_ratio": mlp_ratio,
            "norm_layer": norm_layer,
        }
        del self.head  # the encoder's norm takes its place
        self.encoder_norm = norm_layer(self.num_features, **dd)
        # Predictions per mask unit (per dimension), and the side of a prediction in pixels.
        self.unit_grid = tuple(s ** self.stage_steps[-1] for s in self.q_stride)
        self.pred_stride = patch_stride[-1] * self.q_stride[-1] ** q_pool
        self.fused_stages = [*range(q_pool), len(self.stage_ends) - 1]
        self.multi_scale_fusion_heads = nn.ModuleList(
            self._fusion_head(stage, dd) if stage < q_pool else nn.Identity() for stage in self.fused_stages
        )
        self.pred_grid = tuple(
            g // s**self.steps * u for g, s, u in zip(self.grid, self.q_stride, self.unit_grid, strict=True)
        )
        self.decoder_embed = nn.Linear(self.num_features, decoder_embed_dim, **dd)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim, **dd))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, math.prod(self.pred_grid), decoder_embed_dim, **dd))
        self.decoder_blocks = nn.ModuleList(
            DecoderBlock(
                decoder_embed_dim, decoder_embed_dim, decoder_num_heads, mlp_ratio, norm_layer=norm_layer, **dd
            )
            for _ in range(decoder_depth)
        )
        self.decoder_norm = norm_layer(decoder_embed_dim, **dd)
        # For video, one frame is predicted for each temporal token, so a prediction has at most two dimensions.
        pixels = self.pred_stride ** min(2, len(self.grid)) * in_chans
        self.decoder_pred = nn.Linear(decoder_embed_dim, pixels, **dd)
        self._init_mae()

    def _fusion_head(self, stage: int, dd: dict[str, Any]) -> nn.Module:
        """Build the convolution that brings a stage's map of a mask unit to the last stage's size and width."""
        kernel = [s ** (self.stage_steps[stage] - self.stage_steps[-1]) for s in self.q_stride]
        conv: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(kernel)]
        module: nn.Module = conv(self.feature_info[stage]["num_chs"], self.num_features, kernel, kernel, **dd)
        return module

    def _init_mae(self) -> None:
        """Initialise the parameters as MAE does, not as a classifier: Linear with Xavier uniform, biases with zeros."""
        trunc_normal_(self.mask_token, std=0.02)
        trunc_normal_(self.decoder_pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            if isinstance(module, nn.Linear | nn.LayerNorm):
                nn.init.zeros_(module.bias)
        weight: Any = self.patch_embed.proj.weight
        with torch.no_grad():
            weight.copy_(nn.init.xavier_uniform_(weight.new_empty(len(weight), weight[0].numel())).view_as(weight))

    def get_random_mask(self, x: Tensor, mask_ratio: float, generator: torch.Generator | None = None) -> Tensor:
        """Draw a random keep mask, bool [B, U], that keeps int(U * (1 - mask_ratio)) units of each row.

        Raises:
            InputError: No unit or every unit would be masked.
        """
        return _as_bool(self._random_units(x, mask_ratio, generator), math.prod(self._units(x.shape)))

    def _random_units(self, x: Tensor, mask_ratio: float, generator: torch.Generator | None = None) -> Tensor:
        units = math.prod(self._units(x.shape))
        num_kept = int(units * (1 - mask_ratio))
        if not 0 < num_kept < units:
            raise InputError(
                f"mask_ratio {mask_ratio} keeps {num_kept} of {units} mask units; keep and mask at least one"
            )
        noise = torch.rand(x.shape[0], units, device=x.device, generator=generator)
        return noise.argsort(1)[:, :num_kept].sort(1).values

    def forward_encoder(self, x: Tensor, mask: Tensor) -> Tensor:
        """Encode the kept mask units of an input [B, in_chans, *size] into fused latents [B, K, *unit grid, C]."""
        self._check_input(x)
        return self._encode(x, self.keep_indices(mask, x.shape[0], math.prod(self._units(x.shape))))

    def _encode(self, x: Tensor, keep: Tensor) -> Tensor:
        tokens = self.unit_tokens(x, keep)
        fused: Any = 0
        for i, block in enumerate(self.blocks):
            tokens = self._run(block, tokens)
            stage = self.stage_ends.index(i) if i in self.stage_ends else -1
            if stage in self.fused_stages:
                maps = reroll_units(tokens, self.q_stride, self.stage_steps[stage])
                head = self.multi_scale_fusion_heads[self.fused_stages.index(stage)]
                fused = fused + self._fuse(head, maps)
        return self.encoder_norm(fused)

    @staticmethod
    def _fuse(head: nn.Module, maps: Tensor) -> Tensor:
        if isinstance(head, nn.Identity):
            return maps
        batch, kept = maps.shape[:2]
        return channels_last(head(channels_first(maps.flatten(0, 1)))).unflatten(0, (batch, kept))

    def forward_decoder(self, latent: Tensor, mask: Tensor) -> Tensor:
        """Decode the latents of the kept units into predictions for every token [B, N, pixels], row-major."""
        units = math.prod(self.pred_grid) // math.prod(self.unit_grid)
        return self._decode(latent, self.keep_indices(mask, latent.shape[0], units))

    def _decode(self, latent: Tensor, keep: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Return predictions [B, M, pixels] for the tokens at ``hidden``, int64 [B, M]; None stands for all tokens."""
        visible = self.decoder_embed(latent).flatten(2, -2)  # [B, K, P, D]
        batch, units = latent.shape[0], math.prod(self.pred_grid) // math.prod(self.unit_grid)
        whole = self.mask_token[:, :, None].to(visible.dtype).expand(batch, units, visible.shape[2], -1)
        whole = whole.scatter(1, keep[:, :, None, None].expand_as(visible), visible)
        x = self._to_grid(whole) + self.decoder_pos_embed
        x = x[:, None]  # a single "mask unit", so attention is over all tokens
        *early, last = self.decoder_blocks
        for block in early:
            x = self._run(block, x)
        x = self._run(partial(last, at=hidden), x)
        return self.decoder_pred(self.decoder_norm(x[:, 0]))

    def _to_grid(self, x: Tensor) -> Tensor:
        """[B, U, P, C] -> [B, N, C]: reorder from mask units to the row-major grid of predictions."""
        units = [g // u for g, u in zip(self.pred_grid, self.unit_grid, strict=True)]
        dims = len(units)
        x = x.unflatten(1, units).unflatten(1 + dims, self.unit_grid)
        order = [axis for i in range(dims) for axis in (1 + i, 1 + dims + i)]
        return x.permute(0, *order, x.ndim - 1).flatten(1, -2)

    def masked_tokens(self, mask: Tensor) -> Tensor:
        """Return which predictions belong to masked units, bool [B, N], from the keep mask [B, U]."""
        per_unit = (~mask)[:, :, None, None].expand(-1, -1, math.prod(self.unit_grid), 1)
        return self._to_grid(per_unit)[..., 0]

    def pixel_targets(self, x: Tensor, normalize: bool = True) -> Tensor:
        """Return the target pixels [B, N, pixels], each patch normalised by its own mean and (unbiased) variance.

        As in the original, the pixels of an image's patch are ordered (channel, y, x). Those of a video's patch are
        ordered (y, x, channel) and come from the first frame of its temporal token.
        """
        side = self.pred_stride
        if x.ndim == 5:
            frames = x[:, :, :: self.patch_stride[0]]
            patches = frames.unflatten(4, (-1, side)).unflatten(3, (-1, side))  # B C T H side W side
            targets = patches.permute(0, 2, 3, 5, 4, 6, 1).flatten(1, 3).flatten(2)
        elif x.ndim == 4:
            patches = x.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # B C H side W side
            targets = patches.permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2)
        else:
            targets = x.unflatten(2, (-1, side)).permute(0, 2, 1, 3).flatten(2)
        return _normalized(targets) if normalize else targets

    def to_pixels(self, patches: Tensor) -> Tensor:
        """Invert ``pixel_targets(..., normalize=False)``: [B, N, pixels] -> [B, in_chans, *size].

        For a video, the result has only the predicted frames, every ``patch_stride[0]``-th of the clip.
        """
        side, grid = self.pred_stride, self.pred_grid
        x = patches.unflatten(1, grid)
        if len(grid) == 3:
            x = x.unflatten(-1, (side, side, self.in_chans))  # B T H W side side C
            return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
        x = x.unflatten(-1, (self.in_chans, *[side] * len(grid)))
        if len(grid) == 2:
            return x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        return x.movedim(2, 1).flatten(2, 3)

    def reconstruct(
        self, x: Tensor, mask_ratio: float = 0.6, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct an input from its kept mask units.

        The model predicts patches that are normalised by their own mean and variance. Mean and variance are taken from
        the input, for hidden patches too, so contrast and brightness of the reconstruction are better than the model
        could predict.

        Args:
            x: [B, in_chans, *size] with the model's input size.
            mask_ratio: Share of mask units to drop without a mask, as in ``forward``.
            mask: Mask units to keep, as in ``forward``.
            generator: Random generator that draws the mask if there is none.

        Returns:
            (reconstruction [B, in_chans, *size], its targets from ``x`` [B, in_chans, *size], hidden pixels as bool
            [B, 1, *size]). For a video, all three have only the predicted frames.
        """
        keep = self._keep(x, mask_ratio, mask, generator)
        visible = _as_bool(keep, math.prod(self._units(x.shape)))
        targets = self.pixel_targets(x, normalize=False)
        mean, std = _moments(targets)
        pixels = self.to_pixels(self._decode(self._encode(x, keep), keep) * std + mean)
        hidden = self.masked_tokens(visible)[..., None].expand_as(targets)
        return pixels, self.to_pixels(targets), self.to_pixels(hidden)[:, :1]

    def forward(  # type: ignore[override]
        self, x: Tensor, mask_ratio: float = 0.6, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Reconstruct the masked units of a batch.

        Args:
            x: [B, in_chans, *size] with the model's input size.
            mask_ratio: Share of mask units to drop without a mask (the paper: 0.6 for images, 0.9 for video).
            mask: Keep mask, bool [B, U], True = visible, or the kept indices, int64 [B, K].

        Returns:
            (loss, predictions of the masked tokens [B * M, pixels], their targets [B * M, pixels], keep mask, bool
            [B, U]).
        """
        keep = self._keep(x, mask_ratio, mask)
        units = math.prod(self._units(x.shape))
        visible = _as_bool(keep, units)
        # Indices of the hidden tokens, ascending. Every row has the same number of them, which keeps shapes static.
        count = (units - keep.shape[1]) * math.prod(self.unit_grid)
        hidden = self.masked_tokens(visible).byte().argsort(dim=1, descending=True, stable=True)[:, :count]
        predicted = self._decode(self._encode(x, keep), keep, hidden).flatten(0, 1)
        targets = _normalized(take_rows(self.pixel_targets(x, False), hidden)).flatten(0, 1)
        return (predicted - targets).square().mean(), predicted, targets, visible

    def _keep(
        self, x: Tensor, mask_ratio: float, mask: Tensor | None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the indices of the mask units to keep, int64 [B, K], from the mask or drawn at random."""
        self._check_input(x)
        if not x.shape[0]:
            raise InputError("x has no sample: the loss of an empty batch is not a number")
        if tuple(x.shape[2:]) != self.input_size:
            raise InputError(f"x has size {tuple(x.shape[2:])}; the decoder is built for {self.input_size}")
        if mask is None:
            return self._random_units(x, mask_ratio, generator)
        units = math.prod(self._units(x.shape))
        keep = self.keep_indices(mask, x.shape[0], units)
        if keep.shape[1] == units:
            raise InputError("mask keeps every mask unit, so there is nothing to predict")
        return keep

    # --- timm's model interface: an encoder without a mask --------------------------------------------------------

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, in_chans, *size] -> fused and normed features of the whole input, [B, N, C] in row-major order."""
        return self._fuse_whole(self._maps(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Average features [B, N, C] to [B, C]; there is no classifier, so ``pre_logits`` changes nothing."""
        return x.mean(1)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the maps of the stages before they are fused, with the arguments of `Hiera.forward_intermediates`.

        Unless ``intermediates_only``, the result is a tuple of the output of ``forward_features`` and the list of maps.

        Raises:
            NotSupported: ``norm`` is True, or ``stop_early`` is True and the fused features are to be returned.
        """
        if norm:
            raise NotSupported("norm=True: encoder_norm applies only to the fused features; see forward_features")
        if intermediates_only:
            return super().forward_intermediates(x, indices, False, stop_early, output_fmt, True)
        if stop_early:
            raise NotSupported("stop_early=True: the fused features need all stages; pass intermediates_only=True")
        check_choice("output_fmt", output_fmt, FORMATS)
        maps = self._maps(x)
        stages, _ = feature_take_indices(len(maps), indices)
        return self._fuse_whole(maps), [format_map(maps[i], output_fmt) for i in stages]

    def _maps(self, x: Tensor) -> list[Tensor]:
        """Return the map of every stage, [B, *grid, C] each."""
        maps: Any = super().forward_intermediates(x, output_fmt="NHWC", intermediates_only=True)
        return maps

    def _fuse_whole(self, maps: Sequence[Tensor]) -> Tensor:
        # A fusion head's stride equals its kernel, so on a whole map it computes the same as on each unit by itself.
        heads = zip(self.multi_scale_fusion_heads, self.fused_stages, strict=True)
        fused = sum(self._fuse(head, maps[stage][:, None]) for head, stage in heads)
        return self.encoder_norm(fused).flatten(1, -2)

    def get_classifier(self) -> nn.Module:
        """Return an Identity, as timm does for models without a classifier."""
        return nn.Identity()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Accept 0 classes only, since there is no classifier.

        Raises:
            NotSupported: ``num_classes`` is not 0, or ``global_pool`` is neither None nor ``avg``.
        """
        if num_classes or global_pool not in (None, "avg"):
            raise NotSupported("a masked autoencoder has no classifier: use plain_encoder(num_classes=...)")

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Refuse to drop blocks.

        Raises:
            NotSupported: Always, because the decoder needs every stage.
        """
        raise NotSupported("the decoder needs every stage: prune the model that plain_encoder() returns")

    def _table_grid(self, key: str) -> tuple[int, ...] | None:
        if key == "decoder_pos_embed" and len(self.pred_grid) < 3:
            return self.pred_grid
        return super()._table_grid(key)

    @torch.no_grad()
    def plain_encoder(self, num_classes: int = 0, q_pool: int = 3, **kwargs: Any) -> Hiera:
        """Return the pretrained trunk as a Hiera for finetuning, with an untrained norm and classifier.

        Norm and classifier are untrained in the original, too.

        Args:
            num_classes: Number of classes of the untrained classifier; 0 for no classifier.
            q_pool: Number of stage transitions that pool; 3 in the paper's classifiers.
            **kwargs: Keyword arguments of `Hiera` that replace the trunk's own (``drop_path_rate`` ...). For another
                ``input_size``, plain position tables are resized.

        Raises:
            InputError: The keywords make a Hiera that the weights do not fit.
        """
        encoder = Hiera(**{**self.trunk_kwargs, "num_classes": num_classes, "q_pool": q_pool, **kwargs})
        encoder = encoder.to(self.mask_token.device)
        own = encoder.state_dict()
        state = {key: value for key, value in self.state_dict().items() if key in own}
        state = {k: v if v.shape == own[k].shape else self._resized(k, v, encoder) for k, v in state.items()}
        if wrong := [key for key, value in state.items() if value.shape != own[key].shape]:
            raise InputError(f"kwargs {sorted(kwargs)} make an encoder that the weights do not fit: {wrong[:3]}")
        encoder.load_state_dict(state, strict=False)
        return encoder

    def _resized(self, key: str, table: Tensor, encoder: Hiera) -> Tensor:
        """Return a position table for the input size of an encoder; any other tensor unchanged."""
        old, new = self._table_grid(key), encoder._table_grid(key)
        if old is None or new is None:
            return table
        return resize_table(table.unflatten(1, old), new).flatten(1, -2)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that optimizers should not decay."""
        return super().no_weight_decay() | {"mask_token", "decoder_pos_embed"}


def _as_bool(keep: Tensor, units: int) -> Tensor:
    """Turn kept indices [B, K] into a keep mask, bool [B, U]."""
    return torch.zeros(keep.shape[0], units, dtype=torch.bool, device=keep.device).scatter(1, keep, True)


def _moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the (unbiased) standard deviation of each patch."""
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()


def _normalized(patches: Tensor) -> Tensor:
    mean, std = _moments(patches)
    return (patches - mean) / std
