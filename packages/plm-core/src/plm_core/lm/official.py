"""The training step of the original, for batches as its collator makes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plm_core.errors import InputError
from plm_core.lm.chat import IGNORE
from plm_core.lm.model import PerceptionLM, next_token_loss, put

TEXT = "text"
"""The media type whose samples carry a chunk that nobody looks at."""


def training_loss(
    model: PerceptionLM,
    x: Tensor,
    y: Tensor,
    mask: Tensor,
    images: Tensor | None,
    image_pos_index: Tensor,
    num_chunks: Sequence[int],
    media_type: Sequence[str],
) -> Tensor:
    """Return the loss of a batch of the original's collator.

    The chunks of texts are not encoded, since nobody sees them.

    Args:
        model: The model.
        x: Token ids without the last of each sample, padded to one length, int64 [B, L].
        y: The token after each of ``x``, at targets.
        mask: Whether a position has a target, [B, L].
        images: The chunks of all samples, [N, 3, S, S]; None if all are texts.
        image_pos_index: -1 where there is a token, and not below 0 where there is a visual token, [B, L].
        num_chunks: Chunks of each sample.
        media_type: ``image``, ``multi_image``, ``video`` or ``text`` for each sample.

    Returns:
        The mean cross-entropy over all targets, and 0 if there are none.

    Raises:
        InputError: The chunks are not as many as the samples say, or do not fill the places of visual tokens.
    """
    embeddings: Tensor = model.decoder.get_input_embeddings()(x)
    shown = [kind != TEXT for number, kind in zip(num_chunks, media_type, strict=True) for _ in range(number)]
    if images is not None and images.shape[0] != len(shown):
        raise InputError(f"images has {images.shape[0]} chunks; num_chunks says {len(shown)}")
    if images is not None and any(shown):
        looking = torch.tensor([kind != TEXT for kind in media_type], device=x.device)
        seen = model.image_features(images[torch.tensor(shown, device=images.device)])
        embeddings = put(embeddings, (image_pos_index >= 0) & looking[:, None], seen, "images")
    logits = model.decoder(inputs_embeds=embeddings, use_cache=False).logits
    return next_token_loss(logits, torch.where(mask.bool(), y, IGNORE))
