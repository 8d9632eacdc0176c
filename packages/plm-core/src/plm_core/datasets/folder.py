"""A dataset from a folder with one folder of images per class."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
from PIL import Image

from plm_core.datasets.labelled import Dataset
from plm_core.errors import InputError

_log = logging.getLogger("plm_core")
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"})
MAX_NAMES = 5
"""Number of empty folders that a warning names."""


def read_folder(root: Path) -> Dataset:
    """Read the names and labels of the images in a folder. If it holds splits, its ``train`` folder is used.

    Raises:
        InputError: There is no image in any class folder.
    """
    folders = _subfolders(root)
    if "train" in folders and set(folders) <= SPLITS and _subfolders(root / "train"):
        root, folders = root / "train", _subfolders(root / "train")
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    images = {name: _images(root / name, endings) for name in folders}
    classes = tuple(name for name, files in images.items() if files)
    if not classes:
        raise InputError(f"dataset {str(root)!r} has no images in folders named after their classes, as in cat/1.png")
    if len(classes) < len(folders):
        empty = [name for name, files in images.items() if not files]
        _log.warning("%d folders of %s have no images: %s", len(empty), root, ", ".join(empty[:MAX_NAMES]))
    files = [file for name in classes for file in images[name]]
    labels = np.repeat(np.arange(len(classes)), [len(images[name]) for name in classes])
    names = [file.relative_to(root).as_posix() for file in files]
    return Dataset(str(root), names, labels.astype(np.int64), classes, files)


def _subfolders(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path, endings: set[str]) -> list[Path]:
    files = [
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in endings and not name.startswith(".")
    ]
    return sorted(files)
