"""Digests of what embeddings depend on: the weights of a model, and its preprocessing."""

from __future__ import annotations

import hashlib
import re
from importlib import metadata
from typing import Any

import torch

from plm_core.models import transform_for
from plm_core.sources.torchvision import Origin, is_classifier_of_torchvision
from plm_core.sources.transformers import is_of_transformers
from plm_core.weights import fingerprint

FILE_FACTS = ("_name_or_path", "architectures", "dtype", "transformers_version")
"""Entries of a configuration of transformers that do not change what a model computes in a given precision."""


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


def preprocessing_digest(model: Any, settings: str = "") -> str:
    """Return the sha256 of the steps of a model's preprocessing, and of the version of the model's library.

    Args:
        model: The model.
        settings: What else changes the inputs or the results, such as the precision.
    """
    library = "timm"
    if is_of_transformers(model):
        library = "transformers"
    elif is_classifier_of_torchvision(model):
        library = "torchvision"
    digest = hashlib.sha256(f"{metadata.version(library)} {settings}\n".encode())
    steps = [transform_for(model)]
    while steps:
        step = steps.pop(0)
        steps = [*getattr(step, "transforms", []), *steps]
        # exact values, because repr rounds mean and std
        exact = {name: torch.as_tensor(value).tolist() for name, value in vars(step).items() if name in ("mean", "std")}
        digest.update(f"{step!r} {exact}\n".encode())
    return digest.hexdigest()
