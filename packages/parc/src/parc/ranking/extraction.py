"""Features and class probabilities of a probe: one forward pass per view, with the model's own preprocessing."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from importlib import metadata
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
from plm_core.errors import NotSupported
from plm_core.models import transform_for
from plm_core.sources.torchvision import Origin, is_classifier_of_torchvision
from plm_core.sources.transformers import is_of_transformers
from plm_core.utils.devices import autocast, pick_device
from plm_core.weights import fingerprint

FILE_FACTS = ("_name_or_path", "architectures", "dtype", "transformers_version")
"""Entries of a configuration of transformers that do not change what a model computes in a given precision."""


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
        num_workers=_default_workers(device) if settings.num_workers is None else settings.num_workers,
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


def _default_workers(device: torch.device) -> int:
    return 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)


def weights_digest(model: Any) -> str:
    """Return the sha256 of a model's architecture, its layers, and every tensor of its state dict by name.

    The tensors alone would not do: two architectures may share all of them and differ in an activation or in the
    pooling.
    """
    layers = re.sub(r" at 0x[0-9a-f]+", "", repr(model))
    parts = (type(model).__qualname__, _architecture(model), layers, fingerprint(model))
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


def _architecture(model: Any) -> Any:
    """Return what the layers do not show, such as the number of heads.

    This is the name that timm or torchvision has for the architecture, or the configuration of transformers.
    """
    if is_of_transformers(model):
        config = model.config.to_dict()
        return sorted((name, str(value)) for name, value in config.items() if name not in FILE_FACTS)
    if isinstance(origin := getattr(model, "plm_origin", None), Origin):
        return origin.name
    return (getattr(model, "pretrained_cfg", None) or {}).get("architecture")


def preprocess_digest(model: Any, dtype: str, kind: str) -> str:
    """Return the sha256 of the views of a kind of data, the steps of their preprocessing, and what else changes them.

    That is the precision and the version of the model's library.
    """
    library = "timm"
    if is_of_transformers(model):
        library = "transformers"
    elif is_classifier_of_torchvision(model):
        library = "torchvision"
    digest = hashlib.sha256(f"{metadata.version(library)} {dtype} {views_for(model, kind)}\n".encode())
    steps = [transform_for(model)]
    while steps:
        step = steps.pop(0)
        steps = [*getattr(step, "transforms", []), *steps]
        # exact values, because repr rounds mean and std
        exact = {name: torch.as_tensor(value).tolist() for name, value in vars(step).items() if name in ("mean", "std")}
        digest.update(f"{step!r} {exact}\n".encode())
    return digest.hexdigest()
