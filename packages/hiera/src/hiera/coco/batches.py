"""The collating and the loss of detection batches for `plm_core.training`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hiera.coco.datasets import Target


def collate(batch: Sequence[tuple[Tensor, Target]]) -> dict[str, list[Any]]:
    """Collate items into ``images`` and ``targets``, which are lists of plain tensors because sizes differ."""

    def plain(value: Any) -> Any:
        return value.as_subclass(Tensor) if isinstance(value, Tensor) else value

    return {
        "images": [plain(image) for image, _ in batch],
        "targets": [{name: plain(value) for name, value in target.items()} for _, target in batch],
    }


def loss(model: nn.Module, batch: Mapping[str, list[Any]]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the sum of a detector's losses for a batch from `collate`, and the single losses by name."""
    device = next(model.parameters()).device
    parts = model([image.to(device) for image in batch["images"]], [_to(t, device) for t in batch["targets"]])
    return torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()}


def _to(target: Target, device: torch.device) -> Target:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in target.items()}
