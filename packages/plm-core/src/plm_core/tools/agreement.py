"""How alike the answers of several models are on the same images."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from plm_core.embedding import embed_and_classify
from plm_core.models import transform_for
from plm_core.prediction import find_files, select_files
from plm_core.prediction.files import Kind
from plm_core.utils.images import open_image


@dataclass(frozen=True)
class Agreement:
    """How alike the answers of two models are."""

    cosine: float
    """Mean cosine similarity of the embeddings."""
    lowest: float
    """The cosine similarity of the image on which they differ most."""
    images: int
    """Number of images."""
    same_top1: float | None
    """Share of images with the same best class. None for a model without classes."""


@torch.no_grad()
def agreements(models: Mapping[str, nn.Module], images: Iterable[Tensor]) -> dict[str, Agreement]:
    """Compare the answers of each model with those of the first one.

    Args:
        models: Models by name, in eval mode.
        images: Batches of preprocessed images. Without any the result is empty.

    Raises:
        NotSupported: A model has no embedding.
    """
    cosines: dict[str, list[float]] = {}
    same: dict[str, list[bool]] = {}
    for batch in images:
        first: tuple[Tensor, Tensor | None] | None = None
        for name, model in models.items():
            pooled, logits = embed_and_classify(model, batch)
            first = first or (pooled, logits)
            cosines.setdefault(name, []).extend(torch.cosine_similarity(pooled, first[0]).tolist())
            if logits is not None and first[1] is not None:
                same.setdefault(name, []).extend((logits.argmax(-1) == first[1].argmax(-1)).tolist())
    return {
        name: Agreement(
            cosine=statistics.fmean(values),
            lowest=min(values),
            images=len(values),
            same_top1=statistics.fmean(same[name]) if name in same else None,
        )
        for name, values in cosines.items()
    }


def image_batches(model: nn.Module, folder: Path, batch_size: int) -> Iterator[Tensor]:
    """Return the images of a folder and of all folders below it in batches, preprocessed for a model, on its device.

    Raises:
        InputError: There is no image in the folder. While the batches are read: an image cannot be read.
    """
    files = select_files(find_files([folder]), Kind.IMAGE, type(model).__name__)
    device, preprocess = next(model.parameters()).device, transform_for(model)
    parts = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
    return (torch.stack([preprocess(open_image(file.path)) for file in part]).to(device) for part in parts)
