"""Labelled images or videos of any source, their digest, and class numbers from labels of other types."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plm_core.errors import InputError
from plm_core.utils.images import decode_image, open_image


@dataclass(frozen=True)
class Dataset:
    """Labelled images or videos, still encoded."""

    source: str
    names: Sequence[str]
    labels: NDArray[np.int64]
    """Class numbers [N], or zeros and ones [N, C] if an image has several labels."""
    classes: tuple[str, ...]
    items: Sequence[Any]
    """The path, the encoded bytes, or the pixels uint8 [H, W] or [H, W, C] of each image. The path of each video."""
    kind: str = "images"
    """The kind of the items: ``images`` or ``videos``, as in `plm_core.datasets.KINDS`."""
    left_out: tuple[str, ...] = ()
    """Names of the items that were left out, since they cannot be read."""

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """Return one image, decoded.

        Raises:
            InputError: The image cannot be read, or is a video. The message names it.
        """
        try:
            item = self.items[index]
            if not isinstance(item, Path):
                return decode_image(item)
        except InputError as e:
            raise InputError(f"image {self.names[index]!r} of {self.source!r} cannot be read: {e}") from e
        return open_image(item)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Dataset:
        """Return the items of some indices, in their order, with the same classes. No item is copied."""
        order = np.asarray(indices, dtype=np.int64)
        return replace(
            self, names=[self.names[i] for i in order], labels=self.labels[order], items=_Taken(self.items, order)
        )


class _Taken(Sequence[Any]):
    """The items of some indices, each fetched when it is needed."""

    def __init__(self, items: Sequence[Any], order: NDArray[np.int64]) -> None:
        self.items = items
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: Any) -> Any:
        return self.items[int(self.order[int(index)])]


def digest(dataset: Dataset) -> str:
    """Return 16 digits that change with the name, the label or the order of any item, or with the classes.

    They are cheap, because no file is opened: items of other contents under the same names have the same digest.
    """
    hasher = hashlib.sha256(f"{dataset.labels.shape}\n".encode())
    for text in (*dataset.classes, *dataset.names):
        hasher.update(f"{len(text)} {text}\n".encode())
    hasher.update(np.ascontiguousarray(dataset.labels, dtype="<i8").tobytes())
    return hasher.hexdigest()[:16]


def numbered(labels: NDArray[Any], source: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return labels as class numbers or zeros and ones, and the names of the classes.

    The classes are those that occur. Words and numbers are numbered in their order, and numbers are their own names.

    Args:
        labels: Numbers from 0 or words, [N] or [N, 1]; or zeros and ones [N, C].
        source: Where they come from, for messages.

    Raises:
        InputError: The labels are neither class numbers, words, nor zeros and ones.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "biuf" and np.isin(labels, (0, 1)).all():
        return labels.astype(np.int64), tuple(map(str, range(labels.shape[1])))
    if labels.ndim == 1 and len(labels) and (labels.dtype.kind in "US" or _counts(labels)):
        values, numbers = np.unique(labels, return_inverse=True)
        return numbers.astype(np.int64), tuple(str(value) for value in values.tolist())
    form = f"{labels.dtype} {list(labels.shape)}"
    raise InputError(f"labels of {source!r} are {form}; class numbers from 0 or words [N], or 0/1 [N, C], are allowed")


def _counts(labels: NDArray[Any]) -> bool:
    return labels.dtype.kind in "biu" and labels.min() >= 0
