"""Probes: the few images of a dataset that the models are run on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from parc.sampling import sample_probe
from plm_core.datasets import Dataset
from plm_core.errors import InputError
from plm_core.utils.images import decode_image
from plm_core.utils.progress import track

MAX_NAMES = 5
"""Number of unreadable images that an error names."""


@dataclass(frozen=True)
class Probe:
    """The images of one run."""

    run: int
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    items: Sequence[Any]
    """The path, the encoded bytes, or the pixels uint8 [H, W] or [H, W, C] of each image."""
    digest: str
    """sha256 of the names, labels and contents of the images, in their order."""
    dataset_size: int
    """Number of images in the dataset that the probe was drawn from."""

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """Return one image, decoded."""
        return decode_image(_contents(self.items[index]))

    def packed(self) -> Probe:
        """Return the probe with the contents of all files in memory, for a machine that does not see the files."""
        return replace(self, items=[_contents(self.items[i]) for i in range(len(self))])


def draw_probes(dataset: Dataset, budget: int = 500, runs: int = 1) -> list[Probe]:
    """Draw a probe for each run, and open each of its images once.

    Args:
        dataset: The dataset to draw from.
        budget: Largest number of images, see `parc.sample_probe`.
        runs: Number of probes, each drawn with another seed.

    Raises:
        InputError: Some images cannot be read. The message says how many, and names the first ones.
    """
    if runs < 1:
        raise InputError(f"runs is {runs}; 1 or more are allowed")
    num_classes = len(dataset.classes)
    draws = [sample_probe(dataset.labels, budget=budget, run=run, num_classes=num_classes) for run in range(runs)]
    if dataset.labels.ndim == 1 and any(len(set(dataset.labels[indices])) < 2 for indices in draws):
        present = len(set(dataset.labels))
        raise InputError(f"budget={budget} draws 1 of {present} classes in {dataset.source!r}; at least 2 are needed")
    digests = _digests(dataset, sorted({int(i) for indices in draws for i in indices}))
    return [_probe(dataset, run, indices, digests) for run, indices in enumerate(draws)]


def _probe(dataset: Dataset, run: int, indices: NDArray[np.int64], digests: dict[int, str]) -> Probe:
    names = tuple(dataset.names[i] for i in indices)
    labels = dataset.labels[indices]
    digest = hashlib.sha256(f"{labels.shape} {len(dataset.classes)}\n".encode())
    digest.update(np.ascontiguousarray(labels, dtype="<i8").tobytes())
    for index, name in zip(indices, names, strict=True):
        digest.update(f"{name}\n{digests[int(index)]}\n".encode())
    items = [dataset.items[int(i)] for i in indices]
    return Probe(run, names, labels, dataset.classes, items, digest.hexdigest(), len(dataset))


def _digests(dataset: Dataset, indices: list[int]) -> dict[int, str]:
    """Return the sha256 of each image's contents. Each image is decoded too, to find bad ones before any model runs."""

    def read(index: int) -> tuple[int, str, str]:
        try:
            contents = _contents(dataset.items[index])
            decode_image(contents)
        except InputError as e:
            return index, "", str(e)
        return index, hashlib.sha256(_bytes(contents)).hexdigest(), ""

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = list(track(pool.map(read, indices), "images", total=len(indices)))
    bad = [f"{dataset.names[index]} ({error})" for index, _, error in results if error]
    if bad:
        more = f" and {len(bad) - MAX_NAMES} more" if len(bad) > MAX_NAMES else ""
        listed = ", ".join(bad[:MAX_NAMES])
        raise InputError(f"{len(bad)} of {len(indices)} images of {dataset.source!r} cannot be read: {listed}{more}")
    return {index: digest for index, digest, _ in results}


def _contents(item: Any) -> bytes | NDArray[np.uint8]:
    if not isinstance(item, Path):
        return item
    try:
        return item.read_bytes()
    except OSError as e:
        raise InputError(e.strerror or str(e)) from e


def _bytes(contents: bytes | NDArray[np.uint8]) -> bytes:
    if isinstance(contents, bytes):
        return contents
    return str(contents.shape).encode() + np.ascontiguousarray(contents).tobytes()
