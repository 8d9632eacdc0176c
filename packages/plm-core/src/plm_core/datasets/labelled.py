"""Labelled images of any source, and class numbers from labels of other types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plm_core.errors import InputError


@dataclass(frozen=True)
class Dataset:
    """Labelled images, still encoded."""

    source: str
    names: Sequence[str]
    labels: NDArray[np.int64]
    """Class numbers [N], or zeros and ones [N, C] if an image has several labels."""
    classes: tuple[str, ...]
    items: Sequence[Any]
    """The path, the encoded bytes, or the pixels uint8 [H, W] or [H, W, C] of each image."""

    def __len__(self) -> int:
        return len(self.labels)


def numbered(labels: NDArray[Any], source: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return labels as class numbers or zeros and ones, and the names of the classes.

    Words are numbered in their order.

    Raises:
        InputError: The labels are neither class numbers, words, nor zeros and ones.
    """
    if labels.ndim == 2 and labels.dtype.kind in "biuf" and np.isin(labels, (0, 1)).all():
        return labels.astype(np.int64), tuple(map(str, range(labels.shape[1])))
    if labels.ndim == 1 and labels.dtype.kind in "US":
        words, numbers = np.unique(labels, return_inverse=True)
        return numbers.astype(np.int64), tuple(map(str, words))
    if labels.ndim == 1 and labels.dtype.kind in "biu" and labels.min() >= 0:
        return labels.astype(np.int64), tuple(map(str, range(int(labels.max()) + 1)))
    form = f"{labels.dtype} {list(labels.shape)}"
    raise InputError(f"labels of {source!r} are {form}; class numbers from 0 or words [N], or 0/1 [N, C], are allowed")
