"""Retrieval among held-out pairs, in both directions: the score during a training and after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from pe_encoder.recipes.towers import Towers
from pe_encoder.retrieval import recalls
from plm_core.utils.progress import track

BATCH = 64


def retrieval(
    towers: Towers, data: Dataset[Any], collate: Callable[..., Any], part: str, num_workers: int = 0
) -> dict[str, float]:
    """Score retrieval in both directions, by plain cosines, without the dual softmax of the paper's numbers.

    Args:
        towers: The towers, in eval mode.
        data: A dataset of (medium, caption). Media with the same caption are right for one another.
        collate: Function from samples to media and token ids, see `pe_encoder.recipes.pairs.collate`.
        part: The part of the data in a word, such as ``val``.
        num_workers: Processes that load data.

    Returns:
        The share of captions whose medium is found first, and that of media whose caption is, in %.
    """
    texts: list[str] = []

    def kept(samples: Any) -> Any:
        return collate(samples), [text for _, text in samples]

    device = next(towers.parameters()).device
    media, captions, medium = [], [], "image"
    loader = DataLoader(data, BATCH, collate_fn=kept, num_workers=num_workers)
    with torch.no_grad():
        for (x, ids), words in track(loader, "evaluating", len(loader)):
            medium = "video" if x.ndim == 5 else "image"
            embeddings = towers(x.to(device), ids.to(device))
            media.append(embeddings.media)
            captions.append(embeddings.texts)
            texts += words
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    shares = recalls(
        torch.cat(captions),
        torch.cat(media),
        owner=torch.arange(len(texts), device=device),
        text_id=[numbers[text] for text in texts],
        ks=(1,),
        dsl=None,
    )
    return {
        f"{part} text-to-{medium} recall@1 %": 100 * shares["image_retrieval_recall@1"],
        f"{part} {medium}-to-text recall@1 %": 100 * shares["text_retrieval_recall@1"],
    }
