"""Features and class probabilities of a probe: one forward pass per view, with the model's own preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from parc.ranking.probes import Probe
from parc.ranking.settings import Settings
from parc.ranking.views import Views, views_for
from parc.scoring import Features
from plm_core.embedding import embed, embed_and_classify
from plm_core.embeddings.digests import preprocessing_digest
from plm_core.errors import NotSupported
from plm_core.utils.devices import autocast, default_workers, pick_device


class _Preprocessed(Dataset[Tensor]):
    """The items of a probe, each as the views that a model gets of it, [V, ...]."""

    def __init__(self, probe: Probe, views: Views) -> None:
        self.probe = probe
        self.views = views

    def __len__(self) -> int:
        return len(self.probe)

    def __getitem__(self, index: int) -> Tensor:
        return self.views(self.probe, index)


def extract(
    model: Any,
    probe: Probe,
    settings: Settings,
    *,
    head: bool,
    advance: Callable[[int], None] = lambda images: None,
) -> Features:
    """Run a model on the images or videos of a probe. Features and probabilities are averaged over the views of each.

    Args:
        model: The model, in eval mode. It is moved to the device of the settings.
        probe: The images or videos.
        settings: Device, dtype, batch size and number of workers.
        head: Whether to return the probabilities of the model's classifier too, from the same pass.
        advance: Called after each batch with the number of its images or videos.

    Returns:
        Features float32 [N, D], the input of the classifier; probs float32 [N, S], or None for a model without one.

    Raises:
        NotSupported: The model has no pooled embedding, or does not take the items, see `parc.ranking.views`.
        InputError: The device or the dtype is not allowed.
    """
    device = pick_device(settings.device)
    model = model.to(device)
    views = views_for(model, probe.kind)
    loader = DataLoader(
        _Preprocessed(probe, views),
        batch_size=max(settings.batch_size // views.count, 1),
        num_workers=default_workers(device) if settings.num_workers is None else settings.num_workers,
        pin_memory=device.type == "cuda",
    )
    features: list[Tensor] = []
    probs: list[Tensor] = []
    with torch.inference_mode(), autocast(device, settings.dtype):
        for x in loader:
            pooled, logits = _forward(model, x.flatten(0, 1).to(device, non_blocking=True), head)
            # stays on the device: a copy to the CPU would wait for each batch
            features.append(_mean_over_views(pooled.float(), views.count))
            if logits is not None:
                probs.append(_mean_over_views(logits.float().softmax(-1), views.count))
            advance(len(x))
    return Features(_numpy(features), _numpy(probs) if probs else None)


def _forward(model: Any, x: Tensor, head: bool) -> tuple[Tensor, Tensor | None]:
    """Images [B, C, H, W] or clips -> features [B, D] and, with a head, logits [B, S] if the model has a classifier."""
    if not head:
        return embed(model, x), None
    pooled, logits = embed_and_classify(model, x)
    if logits is not None and logits.ndim != 2:
        raise NotSupported(f"model {type(model).__name__} gives logits {list(logits.shape)}, so no probabilities")
    return pooled, logits


def _mean_over_views(rows: Tensor, count: int) -> Tensor:
    """[B * V, D] -> [B, D]."""
    return rows.unflatten(0, (-1, count)).mean(1)


def _numpy(batches: list[Tensor]) -> np.ndarray[Any, Any]:
    return torch.cat(batches).cpu().numpy()


def preprocess_digest(model: Any, dtype: str, kind: str) -> str:
    """Return the digest of the preprocessing of a model, with the precision and the views of a kind of data."""
    return preprocessing_digest(model, f"{dtype} {views_for(model, kind)}")
