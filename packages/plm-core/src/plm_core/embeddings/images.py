"""`embed_images`, which runs a model on image files. Workers decode the images while the model computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from plm_core.embedding import embed
from plm_core.errors import InputError, WeightsError
from plm_core.models import transform_for
from plm_core.prediction.reading import ImageFiles
from plm_core.prediction.tasks import name_of
from plm_core.utils.devices import autocast

Items = tuple[Mapping[int, str], list[Tensor] | Tensor]


@dataclass(frozen=True)
class Batch:
    """The embeddings of some of the files.

    Attributes:
        places: The places of the files that could be read, in the list of all files.
        vectors: Their embeddings, float32 [len(places), D]. Without any such file, [0, 0].
        unreadable: The places of those that could not be read, each with the reason.
    """

    places: list[int]
    vectors: NDArray[np.float32]
    unreadable: dict[int, str]


def embed_images(
    model: nn.Module, files: Sequence[Path], *, batch_size: int = 64, num_workers: int = 0, dtype: str = "fp32"
) -> Iterator[Batch]:
    """Compute the embeddings of image files, with the model's own preprocessing.

    Args:
        model: The model in eval mode, on any device.
        files: The image files.
        batch_size: Images per forward pass.
        num_workers: Processes that read images while the model computes; with 0, this process reads them.
        dtype: Precision: fp32, or bf16 and fp16 by autocast.

    Returns:
        An iterator of batches in the order of the files, each at most ``batch_size`` files long.

    Raises:
        InputError: The precision is not allowed, or the preprocessing of the model is not known.
        NotSupported: The model has no pooled embedding, see `plm_core.embed`.
        WeightsError: The model gives NaN or infinite values.
    """
    return embed_dataset(model, ImageFiles(files, transform_for(model)), batch_size, num_workers, dtype)


def embed_dataset(
    model: nn.Module, images: Dataset[Any], batch_size: int, num_workers: int, dtype: str
) -> Iterator[Batch]:
    """Compute the embeddings of the items of an `ImageFiles`; otherwise as `embed_images`."""
    weight = next(model.parameters())
    context = autocast(weight.device, dtype)
    loader = DataLoader(
        images,
        batch_size,
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=weight.device.type == "cuda",
    )
    return _batches(model, loader, weight, context)


def _collate(items: list[tuple[Path, Tensor | InputError]]) -> Items:
    """Return why items cannot be read, by place, and the tensors of the others: stacked, in a worker if there is one.

    Those of several sizes, which the preprocessing of few models gives, stay a list.
    """
    errors = {place: str(item) for place, (_, item) in enumerate(items) if isinstance(item, InputError)}
    images = [item for _, item in items if isinstance(item, Tensor)]
    return errors, torch.stack(images) if len({image.shape for image in images}) == 1 else images


def _batches(
    model: nn.Module, loader: DataLoader[Items], weight: Tensor, context: AbstractContextManager[Any]
) -> Iterator[Batch]:
    # An accelerator computes the next batch while the results of this one are copied.
    ahead = 0 if weight.device.type == "cpu" else 1
    running: deque[tuple[int, Mapping[int, str], Tensor]] = deque()
    start = 0
    for errors, images in loader:
        with torch.inference_mode(), context:
            running.append((start, errors, _forward(model, images, weight)))
        start += len(errors) + len(images)
        while len(running) > ahead:
            yield _finished(model, *running.popleft())
    for batch in running:
        yield _finished(model, *batch)


def _forward(model: nn.Module, images: list[Tensor] | Tensor, weight: Tensor) -> Tensor:
    """Images [B, C, H, W] -> embeddings [B, D], on the device of the model."""
    if isinstance(images, Tensor):
        return embed(model, images.to(weight.device, weight.dtype, non_blocking=True)).float()
    return torch.cat([_forward(model, image[None], weight) for image in images] or [torch.zeros(0, 0)])


def _finished(model: nn.Module, start: int, errors: Mapping[int, str], vectors: Tensor) -> Batch:
    rows = vectors.cpu().numpy()
    if not np.isfinite(rows).all():
        raise WeightsError(
            f"model {name_of(model)!r} gives values that are not finite: its values are too large for this precision; "
            "take fp32"
        )
    places = [start + place for place in range(len(errors) + len(rows)) if place not in errors]
    return Batch(places, rows, {start + place: error for place, error in errors.items()})
