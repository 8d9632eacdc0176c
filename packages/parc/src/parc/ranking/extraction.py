"""Features and class probabilities of a probe: one forward pass per image, each model with its own preprocessing."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from parc.ranking.datasets import Probe
from parc.scoring import Features
from plm_core.errors import NotSupported
from plm_core.models import embed, transform_for
from plm_core.utils.devices import autocast


class _Inputs(Dataset[Tensor]):
    """The images of a probe as a model takes them."""

    def __init__(self, probe: Probe, transform: Callable[[Any], Tensor]) -> None:
        self.probe = probe
        self.transform = transform

    def __len__(self) -> int:
        return len(self.probe)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(self.probe.image(index))


def extract(
    model: Any,
    probe: Probe,
    *,
    head: bool,
    device: str | torch.device = "cpu",
    dtype: str = "fp32",
    batch: int = 32,
    workers: int | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> Features:
    """What a model makes of a probe.

    Args:
        model: In eval mode, on ``device``.
        probe: Its images.
        head: Whether to take the probabilities of the model's classifier too, from the same pass.
        device: As torch names it.
        dtype: fp32, or bf16 and fp16 by autocast.
        batch: Images at once.
        workers: Processes that decode while the model computes; None for a few where the model is on an accelerator,
            and none on a CPU, all cores of which the model has anyway.
        advance: Called after each batch with the number of its images.

    Returns:
        Features float32 [N, D], what the classifier sees; probs float32 [N, S], or None.

    Raises:
        NotSupported: The model has no pooled embedding.
    """
    device = torch.device(device)
    loader = DataLoader(
        _Inputs(probe, transform_for(model)),
        batch_size=batch,
        num_workers=_workers(device) if workers is None else workers,
        pin_memory=device.type == "cuda",
    )
    features: list[Tensor] = []
    probs: list[Tensor] = []
    with torch.inference_mode(), autocast(device, dtype):
        for x in loader:
            pooled, logits = _pass(model, x.to(device, non_blocking=True), head)
            features.append(pooled.float())  # stays on the device: to fetch it would be to wait for each batch
            if logits is not None:
                probs.append(logits.float().softmax(-1))
            advance(len(x))
    return Features(_numpy(features), _numpy(probs) if probs else None)


def _pass(model: Any, x: Tensor, head: bool) -> tuple[Tensor, Tensor | None]:
    if not (head and hasattr(model, "forward_features") and hasattr(model, "forward_head")):
        return embed(model, x), None  # raises for a model that lacks them
    tokens = model.forward_features(x)
    pooled, logits = model.forward_head(tokens, pre_logits=True), model.forward_head(tokens)
    if logits.ndim != 2:
        raise NotSupported(f"model {type(model).__name__} gives logits {list(logits.shape)}, so no probabilities")
    return pooled.flatten(1), logits


def _numpy(batches: list[Tensor]) -> np.ndarray[Any, Any]:
    return torch.cat(batches).cpu().numpy()


def _workers(device: torch.device) -> int:
    return 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)


def weights_digest(model: Any) -> str:
    """sha256 over the architecture, its layers, and every tensor of the state by name.

    Tensors alone would not do: two architectures may share them all and differ in an activation or in the pooling.
    """
    config = getattr(model, "pretrained_cfg", None) or {}
    layers = re.sub(r" at 0x[0-9a-f]+", "", repr(model))
    whole = hashlib.sha256(f"{type(model).__qualname__} {config.get('architecture')}\n{layers}\n".encode())
    for name, tensor in sorted(model.state_dict().items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
    return whole.hexdigest()


def transform_digest(model: Any, dtype: str) -> str:
    """sha256 over the steps of the model's preprocessing, the precision, and timm's version."""
    import timm

    steps = [transform_for(model)]
    whole = hashlib.sha256(f"{timm.__version__} {dtype}\n".encode())
    while steps:
        step = steps.pop(0)
        steps = [*getattr(step, "transforms", []), *steps]
        # repr rounds mean and std
        exact = {name: torch.as_tensor(value).tolist() for name, value in vars(step).items() if name in ("mean", "std")}
        whole.update(f"{step!r} {exact}\n".encode())
    return whole.hexdigest()
