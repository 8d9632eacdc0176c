"""Finds out what a source of labelled images or videos is, and reads its names and labels."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from plm_core.datasets.folder import read_classes, read_videos
from plm_core.datasets.huggingface import read_table
from plm_core.datasets.kinds import kind_of
from plm_core.datasets.labelled import Dataset
from plm_core.datasets.layout import find_splits, is_saved
from plm_core.datasets.npz import read_npz
from plm_core.errors import InputError

_log = logging.getLogger("plm_core")
MAX_NAMES = 5
"""Number of classes that a warning names."""


def load_dataset(source: str | Path) -> Dataset:
    """Read the names and labels of a dataset. No image is decoded, and no video is opened.

    Args:
        source: A folder with one folder of images or of videos per class (if it holds splits, its ``train`` folder, see
            `plm_core.datasets.layout.find_splits`); an ``.npz`` file with ``images``, uint8 [N, H, W] or [N, H, W, C],
            and ``labels``, [N] or zeros and ones [N, C]; a folder that Hugging Face datasets have saved; ``hf:name`` or
            ``hf:name:split`` of the Hugging Face Hub, where the default split is train. After it may follow
            ``,config=NAME``, ``,label=COLUMN`` and ``,image=COLUMN``.

    Raises:
        InputError: The source is none of these, has fewer than 2 classes, or no class with 2 images or videos.
        MissingDependency: Hugging Face datasets are not installed.
    """
    return check_labels(read_dataset(source))


def read_dataset(source: str | Path) -> Dataset:
    """Read a dataset as `load_dataset` does, whatever its labels are."""
    text = str(source)
    if text.startswith("hf:"):
        return read_table(text)
    path = Path(source)
    if not path.exists():
        raise InputError(f"dataset {text!r} does not exist; a folder, an .npz file or hf:name[:split] is allowed")
    if path.is_file():
        if path.suffix.lower() != ".npz":
            raise InputError(f"dataset {text!r} is a {path.suffix or 'nameless'} file; of files, .npz is allowed")
        return read_npz(path)
    return read_table(path) if is_saved(path) else read_folder(find_splits(path)[0], kind_of(path))


def read_folder(root: Path, kind: str) -> Dataset:
    """Read the class folders of a folder: their videos if its kind is ``videos``, or else their images.

    Raises:
        InputError: There is no file of that kind in any class folder.
    """
    return read_videos(root) if kind == "videos" else read_classes(root)


def check_labels(dataset: Dataset) -> Dataset:
    """Return a dataset that a model can learn from, and warn about classes with a single image or video.

    Raises:
        InputError: There are fewer than 2 classes, or no class has 2 images or videos.
    """
    if dataset.labels.ndim > 1:
        return dataset
    kind = dataset.kind
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    present = [name for name, count in zip(dataset.classes, counts, strict=True) if count]
    if len(present) < 2:
        raise InputError(
            f"dataset {dataset.source!r} has 1 class ({present[0]}) in {len(dataset)} {kind}; at least 2 are needed"
        )
    single = [name for name, count in zip(dataset.classes, counts, strict=True) if count == 1]
    if len(single) == len(present):
        raise InputError(f"dataset {dataset.source!r} has fewer than 2 {kind} in every class; 2 or more are needed")
    if single:
        listed = ", ".join(single[:MAX_NAMES])
        one = kind.removesuffix("s")
        _log.warning("%d of %d classes have 1 %s only: %s", len(single), len(present), one, listed)
    return dataset
