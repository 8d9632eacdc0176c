"""Features and class probabilities of a probe: one forward pass per image, with the model's own preprocessing."""

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
    """The images of a probe, preprocessed for a model."""

    def __init__(self, probe: Probe, preprocess: Callable[[Any], Tensor]) -> None:
        self.probe = probe
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.probe)

    def __getitem__(self, index: int) -> Tensor:
        return self.preprocess(self.probe.image(index))


def extract(
    model: Any,
    probe: Probe,
    settings: Settings,
    *,
    head: bool,
    advance: Callable[[int], None] = lambda images: None,
) -> Features:
    """Run a model on the images of a probe.

    Args:
        model: The model, in eval mode. It is moved to the device of the settings.
        probe: The images.
        settings: Device, dtype, batch size and number of workers.
        head: Whether to return the probabilities of the model's classifier too, from the same pass.
        advance: Called after each batch with the number of its images.

    Returns:
        Features float32 [N, D], the input of the classifier; probs float32 [N, S], or None for a model without one.

    Raises:
        NotSupported: The model has no pooled embedding.
        InputError: The device or the dtype is not allowed.
    """
    device = pick_device(settings.device)
    model = model.to(device)
    loader = DataLoader(
        _Preprocessed(probe, transform_for(model)),
        batch_size=settings.batch_size,
        num_workers=_default_workers(device) if settings.num_workers is None else settings.num_workers,
        pin_memory=device.type == "cuda",
    )
    features: list[Tensor] = []
    probs: list[Tensor] = []
    with torch.inference_mode(), autocast(device, settings.dtype):
        for x in loader:
            pooled, logits = _forward(model, x.to(device, non_blocking=True), head)
            features.append(pooled.float())  # stays on the device: a copy to the CPU would wait for each batch
            if logits is not None:
                probs.append(logits.float().softmax(-1))
            advance(len(x))
    return Features(_numpy(features), _numpy(probs) if probs else None)


def _forward(model: Any, x: Tensor, head: bool) -> tuple[Tensor, Tensor | None]:
    """Images [B, C, H, W] -> pooled features [B, D] and, with a head, logits [B, S] if the model has a classifier."""
    if not head:
        return embed(model, x), None
    pooled, logits = embed_and_classify(model, x)
    if logits is not None and logits.ndim != 2:
        raise NotSupported(f"model {type(model).__name__} gives logits {list(logits.shape)}, so no probabilities")
    return pooled, logits


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


def preprocess_digest(model: Any, dtype: str) -> str:
    """Return the sha256 of the steps of a model's preprocessing, the precision, and its library's version."""
    library = "timm"
    if is_of_transformers(model):
        library = "transformers"
    elif is_classifier_of_torchvision(model):
        library = "torchvision"
    steps = [transform_for(model)]
    digest = hashlib.sha256(f"{metadata.version(library)} {dtype}\n".encode())
    while steps:
        step = steps.pop(0)
        steps = [*getattr(step, "transforms", []), *steps]
        # exact values, because repr rounds mean and std
        exact = {name: torch.as_tensor(value).tolist() for name, value in vars(step).items() if name in ("mean", "std")}
        digest.update(f"{step!r} {exact}\n".encode())
    return digest.hexdigest()
