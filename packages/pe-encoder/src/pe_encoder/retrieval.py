"""Retrieval of images or videos by texts, and of texts by images or videos: recall at k, by the official protocol.

Shapes: T texts, M media (images or videos), E width of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pe_encoder.media import FRAMES, embed_data
from plm_core import InputError
from plm_core.datasets import Captions


def recalls(
    text_emb: Tensor,
    media_emb: Tensor,
    *,
    owner: Tensor | Sequence[int],
    text_id: Tensor | Sequence[int] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    dsl: float | None = 1.0,
    normalize: bool = True,
) -> dict[str, float]:
    """Score retrieval in both directions.

    Args:
        text_emb: Embeddings of the texts, [T, E].
        media_emb: Embeddings of the images or videos, [M, E].
        owner: The medium that each text belongs to, int64 [T].
        text_id: Numbers of the texts, int64 [T]; texts with the same number are the same string, and each of them
            belongs to the media of all. None if no two are the same.
        ks: For which k.
        dsl: The factor of the dual softmax, by which the similarities of one query are weighed with how much the
            candidates prefer it to the other queries. 1 in the paper's numbers; None for plain similarities. It needs
            all queries at once, which a search engine does not have.
        normalize: Whether to normalise the embeddings. Videos of ``encode_video(normalize=True)`` are means of
            normalised frames, which the official protocol leaves as they are.

    Returns:
        For each k the share of texts with one of their media among the first k, ``image_retrieval_recall@k``, and the
        share of media with one of their texts among the first k, ``text_retrieval_recall@k``.

    Raises:
        InputError: Shapes do not fit, a value is not finite, an owner is no medium, or a medium has no text.
    """
    positive = _positives(len(text_emb), len(media_emb), torch.as_tensor(owner), text_id)
    if text_emb.ndim != 2 or media_emb.ndim != 2 or text_emb.shape[1] != media_emb.shape[1]:
        raise InputError(
            f"text_emb has shape {list(text_emb.shape)} and media_emb {list(media_emb.shape)}; [texts, width] and "
            "[media, width] are expected"
        )
    for name, embeddings in ("text_emb", text_emb), ("media_emb", media_emb):
        if not embeddings.isfinite().all():
            raise InputError(f"{name} has values that are not finite")
    if not ks or min(ks) < 1:
        raise InputError(f"ks is {tuple(ks)}; numbers from 1 on are expected")
    if normalize:
        text_emb, media_emb = F.normalize(text_emb, dim=-1), F.normalize(media_emb, dim=-1)
    similarity = text_emb @ media_emb.T
    image = _recall(_weighed(similarity, dsl), positive, ks)
    text = _recall(_weighed(similarity.T, dsl), positive.T, ks)
    return {f"image_retrieval_recall@{k}": image[k] for k in ks} | {f"text_retrieval_recall@{k}": text[k] for k in ks}


def evaluate(
    model: Any,
    data: Captions,
    *,
    ks: Sequence[int] = (1, 5, 10),
    dsl: float | None = 1.0,
    frames: int = FRAMES,
    mode: str = "squash",
    **options: Any,
) -> dict[str, float]:
    """Score retrieval on images or videos with captions, as `recalls` does. Captions are used as they are.

    Args:
        model: A CLIP from `plm_core.create_model`, in eval mode.
        data: The images or videos, as from `plm_core.datasets.load_captions`.
        ks: For which k.
        dsl: See `recalls`.
        frames: Frames per video.
        mode: ``squash`` or ``center``, see `pe_encoder.preprocess`.
        **options: ``batch_size``, ``num_workers``, ``dtype`` and ``progress`` of `pe_encoder.media.embed_data`.

    Raises:
        InputError: An image or video cannot be read.
    """
    media = embed_data(model, data, frames=frames, mode=mode, normalize=True, **options)
    with torch.no_grad():
        texts = model.encode_text(model.tokenizer()(data.texts).to(model.logit_scale.device), normalize=True)
    numbers = {text: number for number, text in enumerate(dict.fromkeys(data.texts))}
    text_id = torch.tensor([numbers[text] for text in data.texts])
    owner = torch.from_numpy(data.owner)
    return recalls(texts.float().cpu(), media, owner=owner, text_id=text_id, ks=ks, dsl=dsl, normalize=False)


def _weighed(similarity: Tensor, dsl: float | None) -> Tensor:
    """Weigh similarities, [queries, candidates], by the softmax over the queries."""
    return similarity if dsl is None else similarity * (similarity * dsl).softmax(0)


def _recall(similarity: Tensor, positive: Tensor, ks: Sequence[int]) -> dict[int, float]:
    """Return for each k the share of rows with a positive among their k largest columns."""
    most = min(max(ks), similarity.shape[1])
    found = positive.gather(1, similarity.topk(most, dim=1).indices)
    return {k: found[:, :k].any(1).double().mean().item() for k in ks}


def _positives(texts: int, media: int, owner: Tensor, text_id: Tensor | Sequence[int] | None) -> Tensor:
    """Return which text belongs to which medium, bool [T, M]."""
    if owner.shape != (texts,) or owner.is_floating_point():
        raise InputError(f"owner is {owner.dtype} {list(owner.shape)}; the medium of each of {texts} texts is expected")
    if not texts or int(owner.min()) < 0 or int(owner.max()) >= media:
        raise InputError(f"owner must have one of 0 to {media - 1}, the media, for each text, and there must be texts")
    lonely = media - len(owner.unique())
    if lonely:
        raise InputError(f"{lonely} of {media} media have no text in owner")
    positive = torch.zeros(texts, media, dtype=torch.bool, device=owner.device)
    positive[torch.arange(texts, device=owner.device), owner] = True
    if text_id is None:
        return positive
    numbers = torch.as_tensor(text_id)
    if numbers.shape != (texts,) or numbers.is_floating_point():
        raise InputError(
            f"text_id is {numbers.dtype} {list(numbers.shape)}; a number for each of {texts} texts is expected"
        )
    _, group = numbers.to(owner.device).unique(return_inverse=True)
    together = torch.zeros(int(group.max()) + 1, media, dtype=torch.int64, device=owner.device)
    return together.index_add_(0, group, positive.long())[group] > 0
