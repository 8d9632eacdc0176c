"""A dataset from a folder with one folder of images, or of videos, per class."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np

from plm_core.datasets.labelled import Dataset
from plm_core.datasets.layout import files_below, subfolders
from plm_core.errors import InputError
from plm_core.utils.endings import VIDEOS, image_endings

_log = logging.getLogger("plm_core")
MAX_NAMES = 5
"""Number of empty folders that a warning names."""


def read_classes(root: Path) -> Dataset:
    """Read the names and labels of the images in the class folders of a folder.

    Raises:
        InputError: There is no image in any class folder.
    """
    return _read(root, "images", image_endings(), "cat/1.png")


def read_videos(root: Path) -> Dataset:
    """Read the names and labels of the videos in the class folders of a folder. None is opened.

    Raises:
        InputError: There is no video in any class folder.
    """
    return _read(root, "videos", VIDEOS, "run/1.mp4")


def _read(root: Path, kind: str, endings: Collection[str], example: str) -> Dataset:
    found = {
        name: sorted(file for file in files_below(root / name) if file.suffix.lower() in endings)
        for name in subfolders(root)
    }
    classes = tuple(name for name, files in found.items() if files)
    if not classes:
        raise InputError(f"dataset {str(root)!r} has no {kind} in folders named after their classes, as in {example}")
    if len(classes) < len(found):
        empty = [name for name, files in found.items() if not files]
        _log.warning("%d folders of %s have no %s: %s", len(empty), root, kind, ", ".join(empty[:MAX_NAMES]))
    files = [file for name in classes for file in found[name]]
    labels = np.repeat(np.arange(len(classes)), [len(found[name]) for name in classes])
    names = [file.relative_to(root).as_posix() for file in files]
    return Dataset(str(root), names, labels.astype(np.int64), classes, files, kind)
