"""Masked autoencoding with Hiera (Hiera paper, section 4): the encoder sees kept mask units only.

Dropped mask units cost nothing: tokens of the kept ones alone go through the encoder. The features of all stages are
fused per mask unit, a plain decoder predicts the pixels of what was dropped.

Shapes: B batch, U mask units, K kept ones, P predictions per mask unit, D decoder width.
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

from hiera.layers import LAYER_NORM, HieraBlock, NormLayer
from hiera.model import Hiera, check_format, format_map
from hiera.tokens import reroll_units, take
from plm_core import InputError, NotSupported


class DecoderBlock(HieraBlock):
    """A block that can be evaluated at some tokens only."""

    def forward(self, x: Tensor, at: Tensor | None = None) -> Tensor:
        """[B, 1, N, D] -> [B, 1, N, D], or [B, 1, M, D] at the tokens of ``at``, int64 [B, M].

        Keys and values come from all tokens; attention's queries, and the MLP, are of those tokens alone. The decoder's
        blocks have neither drop path nor layer scale.
        """
        if at is None:
            return super().forward(x)
        at = at[:, None, :, None]
        q, k, v = self.attn.project(self.norm1(x))
        attended = F.scaled_dot_product_attention(take(q, at, 2), k, v)
        return self.mlp_residual(take(x, at, 2) + self.attn.merge(attended, x.shape[0], 1))


class MaskedAutoencoderHiera(Hiera):
    """Hiera with the decoder that pretrains it; keywords and returns of ``forward`` are the original's.

    Without a mask it is an encoder: ``forward_features`` gives the fused and normed features of the whole input,
    ``forward_head`` their mean. It has no classifier; see `plain_encoder`.

    Args:
        in_chans: Input channels.
        patch_stride: As for `Hiera`.
        mlp_ratio: As for `Hiera`; of the decoder too.
        decoder_embed_dim: Width of the decoder.
        decoder_depth: Its blocks.
        decoder_num_heads: Its heads.
        norm_layer: Called with a width.
        q_pool: Stage transitions that pool; 2 in the paper: a mask unit then has 2 x 2 predictions of 16 x 16 pixels.
        **kwargs: As for `Hiera`.
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
        if decoder_depth < 1:
            raise InputError(f"decoder_depth {decoder_depth} is not allowed: at least 1 is")
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
        # predictions per mask unit, and pixels of each, per dimension
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
        # video predicts one frame for each temporal token: two spatial dimensions at most
        pixels = self.pred_stride ** min(2, len(self.grid)) * in_chans
        self.decoder_pred = nn.Linear(decoder_embed_dim, pixels, **dd)
        self._init_mae()

    def _fusion_head(self, stage: int, dd: dict[str, Any]) -> nn.Module:
        """Convolution that brings a stage's map of a mask unit to the size and width of the last stage's."""
        kernel = [s ** (self.stage_steps[stage] - self.stage_steps[-1]) for s in self.q_stride]
        conv: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(kernel)]
        module: nn.Module = conv(self.feature_info[stage]["num_chs"], self.num_features, kernel, kernel, **dd)
        return module

    def _init_mae(self) -> None:
        """MAE's initialisation in place of the classifier's: Linear xavier, biases zero."""
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
        """Random keep mask, bool [B, U]: int(U * (1 - mask_ratio)) units of each row are kept.

        Raises:
            InputError: Nothing, or everything, would be masked.
        """
        return _as_bool(self._random_units(x, mask_ratio, generator), math.prod(self._units(x.shape)))

    def _random_units(self, x: Tensor, mask_ratio: float, generator: torch.Generator | None = None) -> Tensor:
        units = math.prod(self._units(x.shape))
        keep = int(units * (1 - mask_ratio))
        if not 0 < keep < units:
            raise InputError(
                f"mask_ratio {mask_ratio} keeps {keep} of {units} mask units; some must be kept, some masked"
            )
        noise = torch.rand(x.shape[0], units, device=x.device, generator=generator)
        return noise.argsort(1)[:, :keep].sort(1).values

    def forward_encoder(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, in_chans, *size] and a keep mask -> fused latents of the kept units [B, K, *unit grid, C]."""
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
        return head(maps.flatten(0, 1).movedim(-1, 1)).movedim(1, -1).unflatten(0, (batch, kept))

    def forward_decoder(self, latent: Tensor, mask: Tensor) -> Tensor:
        """Latents of the kept units -> predictions for every token [B, N, pixels], row-major."""
        units = math.prod(self.pred_grid) // math.prod(self.unit_grid)
        return self._decode(latent, self.keep_indices(mask, latent.shape[0], units))

    def _decode(self, latent: Tensor, keep: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Predictions of the tokens at ``hidden``, int64 [B, M] -> [B, M, pixels]; of all tokens when None."""
        visible = self.decoder_embed(latent).flatten(2, -2)  # [B, K, P, D]
        batch, units = latent.shape[0], math.prod(self.pred_grid) // math.prod(self.unit_grid)
        whole = self.mask_token[:, :, None].to(visible.dtype).expand(batch, units, visible.shape[2], -1)
        whole = whole.scatter(1, keep[:, :, None, None].expand_as(visible), visible)
        x = self._to_grid(whole) + self.decoder_pos_embed
        x = x[:, None]  # one "mask unit": attention over everything
        *early, last = self.decoder_blocks
        for block in early:
            x = self._run(block, x)
        x = self._run(partial(last, at=hidden), x)
        return self.decoder_pred(self.decoder_norm(x[:, 0]))

    def _to_grid(self, x: Tensor) -> Tensor:
        """[B, U, P, C] -> [B, N, C]: from mask units to the row-major grid of predictions."""
        units = [g // u for g, u in zip(self.pred_grid, self.unit_grid, strict=True)]
        dims = len(units)
        x = x.unflatten(1, units).unflatten(1 + dims, self.unit_grid)
        order = [axis for i in range(dims) for axis in (1 + i, 1 + dims + i)]
        return x.permute(0, *order, -1).flatten(1, -2)

    def masked_tokens(self, mask: Tensor) -> Tensor:
        """Which predictions belong to masked units: bool [B, N] from the keep mask [B, U]."""
        per_unit = (~mask)[:, :, None, None].expand(-1, -1, math.prod(self.unit_grid), 1)
        return self._to_grid(per_unit)[..., 0]

    def pixel_targets(self, x: Tensor, normalize: bool = True) -> Tensor:
        """Pixels of every prediction [B, N, pixels], each patch normalised by its own mean and (unbiased) variance.

        As in the original, a patch of an image is ordered (channel, y, x), one of a video (y, x, channel) and taken
        from the first frame of its temporal token.
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
        """The inverse of ``pixel_targets(..., normalize=False)``: [B, N, pixels] -> [B, in_chans, *size].

        The result for a video has only the predicted frames: every ``patch_stride[0]``-th.
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
        """The model's picture of an input of which it sees the kept mask units only.

        The model predicts patches that are normalised by their own mean and variance. Those are taken from the input,
        hidden patches too, so the picture's contrast and brightness are better than the model's knowledge.

        Args:
            x: [B, in_chans, *size], of the model's own size.
            mask_ratio: As in ``forward``.
            mask: As in ``forward``.
            generator: Draws the mask when none is given.

        Returns:
            (reconstruction, what was predicted of ``x``, both [B, in_chans, *size], and whether its pixels were hidden,
            bool [B, 1, *size]); of a video, the predicted frames.
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
            x: [B, in_chans, *size], of the model's own size.
            mask_ratio: Share of mask units to drop when no mask is given (the paper: 0.6 for images, 0.9 for video).
            mask: Keep mask, bool [B, U], True = visible, or the kept indices, int64 [B, K].

        Returns:
            (loss, predictions of the masked tokens [M, pixels], their targets [M, pixels], mask).
        """
        keep = self._keep(x, mask_ratio, mask)
        units = math.prod(self._units(x.shape))
        visible = _as_bool(keep, units)
        # positions of the hidden tokens, ascending; every row has as many, which keeps shapes static
        count = (units - keep.shape[1]) * math.prod(self.unit_grid)
        hidden = self.masked_tokens(visible).byte().argsort(dim=1, descending=True, stable=True)[:, :count]
        predicted = self._decode(self._encode(x, keep), keep, hidden).flatten(0, 1)
        targets = _normalized(take(self.pixel_targets(x, False), hidden[..., None], 1)).flatten(0, 1)
        return (predicted - targets).square().mean(), predicted, targets, visible

    def _keep(
        self, x: Tensor, mask_ratio: float, mask: Tensor | None, generator: torch.Generator | None = None
    ) -> Tensor:
        """The mask units to keep, int64 [B, K]: those of the mask, or drawn."""
        self._check_input(x)
        if tuple(x.shape[2:]) != self.input_size:
            raise InputError(f"x has size {tuple(x.shape[2:])}; the decoder is made for {self.input_size}")
        if mask is None:
            return self._random_units(x, mask_ratio, generator)
        units = math.prod(self._units(x.shape))
        keep = self.keep_indices(mask, x.shape[0], units)
        if keep.shape[1] == units:
            raise InputError("mask keeps every mask unit, so there is nothing to predict")
        return keep

    # --- an encoder without a mask, in timm's terms ---------------------------------------------------------------

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, in_chans, *size] -> fused and normed features of the whole input [B, N, C], row-major."""
        return self._fuse_whole(self._maps(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features [B, N, C] -> their mean [B, C]; there is no classifier, so ``pre_logits`` changes nothing."""
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
        """The maps of the stages, as of `Hiera`, before they are fused; before them what ``forward_features`` returns.

        Raises:
            NotSupported: ``norm`` is asked for, or ``stop_early`` with fused features.
        """
        if norm:
            raise NotSupported("norm: encoder_norm is for the fused features, which forward_features returns")
        if intermediates_only:
            return super().forward_intermediates(x, indices, False, stop_early, output_fmt, True)
        if stop_early:
            raise NotSupported("stop_early: the fused features need all stages; ask for intermediates_only")
        check_format(output_fmt)
        maps = self._maps(x)
        stages, _ = feature_take_indices(len(maps), indices)
        return self._fuse_whole(maps), [format_map(maps[i], output_fmt) for i in stages]

    def _maps(self, x: Tensor) -> list[Tensor]:
        """The map of every stage [B, *grid, C]."""
        maps: Any = super().forward_intermediates(x, output_fmt="NHWC", intermediates_only=True)
        return maps

    def _fuse_whole(self, maps: Sequence[Tensor]) -> Tensor:
        # kernel and stride of the fusion heads are the same, so over whole maps they do what they do in each unit
        heads = zip(self.multi_scale_fusion_heads, self.fused_stages, strict=True)
        fused = sum(self._fuse(head, maps[stage][:, None]) for head, stage in heads)
        return self.encoder_norm(fused).flatten(1, -2)

    def get_classifier(self) -> nn.Module:
        """There is none: timm's Identity of models without classes."""
        return nn.Identity()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Refused but for 0 classes.

        Raises:
            NotSupported: A classifier, or another pooling, is asked for.
        """
        if num_classes or global_pool not in (None, "avg"):
            raise NotSupported("a masked autoencoder has no classifier: use plain_encoder(num_classes=...)")

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Refused.

        Raises:
            NotSupported: Always: the decoder needs every stage.
        """
        raise NotSupported("the decoder needs every stage: prune what plain_encoder() returns")

    def _table_grid(self, key: str) -> tuple[int, ...] | None:
        if key == "decoder_pos_embed" and len(self.pred_grid) < 3:
            return self.pred_grid
        return super()._table_grid(key)

    @torch.no_grad()
    def plain_encoder(self, num_classes: int = 0, q_pool: int = 3, **kwargs: Any) -> Hiera:
        """The pretrained trunk as a Hiera for finetuning; its norm and classifier are new, as in the original.

        Args:
            num_classes: Classes of the new head.
            q_pool: Stage transitions that pool; 3 in the paper's classifiers.
            **kwargs: Override the trunk's own (``drop_path_rate`` ...).
        """
        encoder = Hiera(**{**self.trunk_kwargs, "num_classes": num_classes, "q_pool": q_pool, **kwargs})
        encoder = encoder.to(self.mask_token.device)
        own = encoder.state_dict()
        encoder.load_state_dict({key: value for key, value in self.state_dict().items() if key in own}, strict=False)
        return encoder

    def no_weight_decay(self) -> set[str]:
        """Parameters that optimizers should not decay."""
        return super().no_weight_decay() | {"mask_token", "decoder_pos_embed"}


def _as_bool(keep: Tensor, units: int) -> Tensor:
    """Kept indices [B, K] -> keep mask, bool [B, U]."""
    return torch.zeros(keep.shape[0], units, dtype=torch.bool, device=keep.device).scatter(1, keep, True)


def _moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (unbiased) standard deviation of each patch."""
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()


def _normalized(patches: Tensor) -> Tensor:
    mean, std = _moments(patches)
    return (patches - mean) / std
