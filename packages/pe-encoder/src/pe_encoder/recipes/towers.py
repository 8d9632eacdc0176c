"""Both towers as one module, as a training sees them: a forward pass of a batch, with masked copies and in chunks.

Shapes: B batch, F frames, L tokens of a text, E width of the embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pe_encoder.clip import CLIP
from pe_encoder.recipes import masking, resolution
from plm_core.training import TrainResult


class Embeddings(NamedTuple):
    """What both towers return for a batch.

    Attributes:
        media: Embeddings of the images or videos, [B, E] of length 1.
        texts: Embeddings of the captions, [B, E] of length 1.
        scale: The factor of the logits.
        distance: How far the tokens of masked copies are from those of the whole images; 0 without copies.
    """

    media: Tensor
    texts: Tensor
    scale: Tensor
    distance: Tensor


class Towers(nn.Module):
    """The towers of a CLIP for a training. They are the CLIP's own, so it is trained in place.

    The factor of the logits and the mask token are parameters of this module, the former as a vector with one value,
    since FSDP does not shard scalars.

    Args:
        clip: The CLIP.
        max_scale: The largest factor of the logits; `limit_scale` keeps it.
        mask_share: Share of the images of a batch that have a masked copy.
        mask_ratio: Share of the patches that are masked in a copy.
        chunk_size: The most images or frames that are encoded at once; None for all.
    """

    def __init__(
        self,
        clip: CLIP,
        max_scale: float = 100.0,
        mask_share: float = 0.0,
        mask_ratio: float = 0.4,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        self.visual = clip.visual
        self.text = clip.text
        self.max_log_scale = math.log(max_scale)
        self.log_scale = nn.Parameter(clip.logit_scale.detach().reshape(1).clamp(max=self.max_log_scale))
        self.mask_share = mask_share
        self.mask_ratio = mask_ratio
        self.chunk_size = chunk_size
        self.mask_token: nn.Parameter | None = None
        if mask_share:
            width = clip.visual.embed_dim
            self.mask_token = nn.Parameter(width**-0.5 * torch.randn(width, device=clip.logit_scale.device))
        self._no_weight_decay = clip.no_weight_decay()

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that optimizers should not decay."""
        return self._no_weight_decay | {"log_scale", "mask_token"}

    @torch.no_grad()
    def limit_scale(self) -> None:
        """Set the factor of the logits back to its largest value, after a step.

        A limit in the forward pass would take the gradient away there, and the factor could not come down again.
        """
        own: Any = self.log_scale
        (own.to_local() if hasattr(own, "to_local") else own).clamp_(max=self.max_log_scale)  # FSDP shards it

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the blocks of both towers again in the backward pass."""
        self.visual.set_grad_checkpointing(enable)
        self.text.grad_checkpointing = enable

    def forward(self, media: Tensor, ids: Tensor) -> Embeddings:
        """Embed a batch.

        Args:
            media: Images [B, 3, H, W], or videos [B, F, 3, H, W], whose frames are averaged. They have the tower's own
                size, or a smaller one.
            ids: Texts, int64 [B, L].
        """
        distance = media.new_zeros(())
        if media.ndim == 5:
            frames = F.normalize(self._in_chunks(self._embed, media.flatten(0, 1)), dim=-1)
            embeddings = frames.unflatten(0, media.shape[:2]).mean(1)
        else:
            copies = masking.count_copies(len(media), self.mask_share) if self.training else 0
            embeddings = self._in_chunks(self._embed, media[copies:]) if copies < len(media) else None
            if copies:
                whole, distance = self._embed_and_mask(media[:copies])
                embeddings = whole if embeddings is None else torch.cat([whole, embeddings])
        scale = self.log_scale.exp()
        return Embeddings(F.normalize(embeddings, dim=-1), F.normalize(self.text(ids), dim=-1), scale, distance)

    def _in_chunks(self, encode: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        if self.chunk_size is None or len(images) <= self.chunk_size or not torch.is_grad_enabled():
            return encode(images)
        chunks: list[Tensor] = [checkpoint(encode, part, use_reentrant=False) for part in images.split(self.chunk_size)]
        return torch.cat(chunks)

    def _embed(self, images: Tensor) -> Tensor:
        tower = self.visual
        return tower.forward_head(self._tokens(tower.patch_embed(images), images))

    def _tokens(self, patches: Tensor, images: Tensor) -> Tensor:
        """Run the vision tower on embedded patches of images: [B, P, C] -> [B, N, C], before the last norm."""
        tower = self.visual
        grid = (images.shape[-2] // tower.patch_size, images.shape[-1] // tower.patch_size)
        return tower.run(*tower.place(patches, grid, resolution.positions(tower, grid)))

    def _embed_and_mask(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embed images, and return how far the tokens of masked copies of them are from theirs."""
        tower, token = self.visual, self.mask_token
        assert token is not None  # there are copies only with a share, and then there is a token
        patches = tower.patch_embed(images)
        tokens = self._tokens(patches, images)
        mask = masking.draw_mask(patches.shape[0], patches.shape[1], self.mask_ratio, patches.device)
        copies = self._tokens(masking.hide(patches, mask, token), images)
        first = tower.num_prefix_tokens
        distance = masking.distance(tower.norm(copies)[:, first:], tower.norm(tokens)[:, first:], mask)
        return tower.forward_head(tokens), distance


def clip_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a CLIP from that of `Towers`."""
    towers = {name: value for name, value in state.items() if name.startswith(("visual.", "text."))}
    return towers | {"logit_scale": state["log_scale"].reshape(())} if state else {}


def finish(clip: CLIP, result: TrainResult) -> TrainResult:
    """Give a CLIP the factor of the logits that was learned, and return the result with the CLIP's state dict."""
    result = replace(result, state=clip_state(result.state))
    if result.state:
        with torch.no_grad():
            clip.logit_scale.copy_(result.state["logit_scale"])
    return result
