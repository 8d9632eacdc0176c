"""Labelled images as a dataset of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.utils.data
from PIL import Image

from plm_core.datasets.labelled import Dataset
from plm_core.errors import InputError


class Pictures(torch.utils.data.Dataset[tuple[Any, int]]):
    """A map-style dataset of (preprocessed image, class number).

    Args:
        dataset: The labelled images, one class for each.
        preprocess: Function from a PIL image of any mode to what a model takes, such as `plm_core.transform_for`.

    Attributes:
        classes: Names of the classes, by number.

    Raises:
        InputError: The dataset holds videos, or several labels for an image. On indexing: an image cannot be read; the
            message names it.
    """

    def __init__(self, dataset: Dataset, preprocess: Callable[[Image.Image], Any]) -> None:
        if dataset.kind != "images":
            raise InputError(f"data {dataset.source!r} holds {dataset.kind}; images are needed")
        if dataset.labels.ndim != 1:
            raise InputError(f"data {dataset.source!r} has several labels per image; one class per image is needed")
        self.dataset = dataset
        self.preprocess = preprocess
        self.classes = dataset.classes

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.preprocess(self.dataset.image(index)), int(self.dataset.labels[index])
