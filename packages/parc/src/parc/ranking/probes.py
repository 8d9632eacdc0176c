"""Probes: the few images or videos of a dataset that the models are run on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from parc.sampling import sample_probe
from plm_core.datasets import Dataset
from plm_core.errors import InputError
from plm_core.utils.images import decode_image
from plm_core.utils.progress import track

if TYPE_CHECKING:
    from plm_core.video import Video

MAX_NAMES = 5
"""Number of unreadable images or videos that an error names."""


@dataclass(frozen=True)
class Probe:
    """The images or videos of one run."""

    run: int
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    items: Sequence[Any]
    """The path, the encoded bytes, or the pixels uint8 [H, W] or [H, W, C] of each image. The path or the encoded bytes
    of each video."""
    digest: str
    """sha256 of the names, labels and contents of the items, in their order."""
    dataset_size: int
    """Number of items in the dataset that the probe was drawn from."""
    kind: str
    """The kind of the items: ``images`` or ``videos``."""

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """Return one image, decoded."""
        return decode_image(_contents(self.items[index]))

    def video(self, index: int) -> Video:
        """Return one video, opened."""
        from plm_core.video import Video  # torch is imported with it, which a probe of images does not need

        return Video(self.items[index])

    def packed(self) -> Probe:
        """Return the probe with the contents of all files in memory, for a machine that does not see the files."""
        return replace(self, items=[_contents(self.items[i]) for i in range(len(self))])


def draw_probes(dataset: Dataset, budget: int = 500, runs: int = 1) -> list[Probe]:
    """Draw a probe for each run, and open each of its images or videos once.

    Args:
        dataset: The dataset to draw from.
        budget: Largest number of images or videos, see `parc.sample_probe`.
        runs: Number of probes, each drawn with another seed.

    Raises:
        InputError: Some images or videos cannot be read. The message says how many, and names the first ones.
        MissingDependency: PyAV is needed for videos and is not installed.
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
    return Probe(run, names, labels, dataset.classes, items, digest.hexdigest(), len(dataset), dataset.kind)


def _digests(dataset: Dataset, indices: list[int]) -> dict[int, str]:
    """Return the sha256 of the contents of each item. Bad items are found too, before any model runs."""
    read_item = _video_digest if dataset.kind == "videos" else _image_digest

    def read(index: int) -> tuple[int, str, str]:
        try:
            return index, read_item(dataset.items[index]), ""
        except InputError as e:
            return index, "", str(e)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = list(track(pool.map(read, indices), dataset.kind, total=len(indices)))
    bad = [f"{dataset.names[index]} ({error})" for index, _, error in results if error]
    if bad:
        more = f" and {len(bad) - MAX_NAMES} more" if len(bad) > MAX_NAMES else ""
        listed = ", ".join(bad[:MAX_NAMES])
        raise InputError(
            f"{len(bad)} of the {len(indices)} {dataset.kind} drawn from {dataset.source!r} cannot be read, which "
            f"--skip-unreadable leaves out: {listed}{more}"
        )
    return {index: digest for index, digest, _ in results}


def _image_digest(item: Any) -> str:
    """Return the sha256 of an image's contents, and decode it."""
    contents = _contents(item)
    decode_image(contents)
    return hashlib.sha256(_bytes(contents)).hexdigest()


def _video_digest(path: Path) -> str:
    """Return the sha256 of a video file, and find its frames. None is decoded, which would take long."""
    from plm_core.video import Video

    Video(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
