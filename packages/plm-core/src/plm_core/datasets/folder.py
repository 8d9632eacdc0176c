"""A dataset from a folder with one folder of images, or of videos, per class."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from unicodedata import normalize

import numpy as np

from plm_core.datasets.labelled import Dataset
from plm_core.datasets.layout import files_below, files_in, subfolders
from plm_core.errors import InputError, escaped
from plm_core.utils.endings import VIDEOS, image_endings

_log = logging.getLogger("plm_core")
MAX_NAMES = 5
"""Number of folders or files that a warning names."""
MAX_SPLITS = 4
"""Number of folders up to which they may be splits of a dataset."""


def read_classes(root: Path) -> Dataset:
    """Read the names and labels of the images in the class folders of a folder.

    A class is a folder in ``root``, and all folders below it belong to it. Classes are numbered in the order of their
    names, by code points of Unicode's composed form (NFC), in which the names are returned too.

    Raises:
        InputError: There is no image in any class folder; an image is in two classes by a link; or the name of a class
            is spelt in two ways, or has control characters or bytes that are no UTF-8.
    """
    return _read(root, "images", image_endings(), "cat/1.png")


def read_videos(root: Path) -> Dataset:
    """Read the names and labels of the videos in the class folders of a folder, as `read_classes`. None is opened.

    Raises:
        InputError: As for `read_classes`.
    """
    return _read(root, "videos", VIDEOS, "run/1.mp4")


def _read(root: Path, kind: str, endings: Collection[str], example: str) -> Dataset:
    found = {
        folder: sorted(file for file in files_below(root / folder) if file.suffix.lower() in endings)
        for folder in subfolders(root)
    }
    folders = [folder for folder, files in found.items() if files]
    if not folders:
        raise InputError(f"dataset {str(root)!r} has no {kind} in folders named after their classes, as in {example}")
    if len(folders) < len(found):
        empty = [folder for folder, files in found.items() if not files]
        listed = ", ".join(map(escaped, empty[:MAX_NAMES]))
        has = "folder of %s has" if len(empty) == 1 else "folders of %s have"
        _log.warning(f"%d {has} no %s: %s", len(empty), root, kind, listed)
    _warn_of_files_beside(root, kind, endings)
    _warn_of_splits(root, folders, found)
    classes = _class_names(root, folders)
    found = _once(root, {folder: found[folder] for folder in folders}, kind)
    files = [file for folder in folders for file in found[folder]]
    labels = np.repeat(np.arange(len(classes)), [len(found[folder]) for folder in folders])
    names = [escaped(file.relative_to(root).as_posix()) for file in files]
    return Dataset(str(root), names, labels.astype(np.int64), classes, files, kind)


def _warn_of_files_beside(root: Path, kind: str, endings: Collection[str]) -> None:
    """Warn of images or videos that lie in no class folder."""
    beside = [name for name in files_in(root) if Path(name).suffix.lower() in endings]
    if beside:
        more = f" and {len(beside) - MAX_NAMES} more" if len(beside) > MAX_NAMES else ""
        listed = ", ".join(map(escaped, beside[:MAX_NAMES]))
        _log.warning("%s of %s in no class folder, left out: %d (%s%s)", kind, root, len(beside), listed, more)


def _warn_of_splits(root: Path, folders: Sequence[str], found: Mapping[str, list[Path]]) -> None:
    """Warn if the classes look like splits of unknown names: a few, which hold the same folders and nothing else."""
    if not 2 <= len(folders) <= MAX_SPLITS:
        return
    inner = [subfolders(root / folder) for folder in folders]
    alike = len(inner[0]) > 1 and all(names == inner[0] for names in inner)
    if alike and not any(file.parent == root / folder for folder in folders for file in found[folder]):
        _log.warning(
            "%s are the classes of %s, and each holds the folders %s: if these are the classes, name one folder to "
            "read, or call the folders train and val",
            " and ".join(map(escaped, folders)),
            root,
            ", ".join(map(escaped, inner[0][:MAX_NAMES])),
        )


def _class_names(root: Path, folders: Sequence[str]) -> tuple[str, ...]:
    names = [normalize("NFC", folder) for folder in folders]
    for name, following in pairwise(names):  # they are sorted
        if name == following:
            raise InputError(f"dataset {str(root)!r} has two folders {name!r}, in two Unicode spellings; merge them")
    for name in names:
        if not name.isprintable():
            raise InputError(f"dataset {str(root)!r} has a class folder {name!r}, which cannot be printed; rename it")
    return tuple(names)


def _once(root: Path, found: Mapping[str, list[Path]], kind: str) -> dict[str, list[Path]]:
    """Return the files by folder without the links to others of them.

    Raises:
        InputError: Two classes have the same file.
    """
    parents: dict[str, str] = {}
    class_of: dict[str, str] = {}
    kept: dict[str, list[Path]] = {folder: [] for folder in found}
    for folder, files in found.items():
        for file in files:
            parent, name = os.path.split(file)
            if parent not in parents:
                parents[parent] = os.path.realpath(parent)
            real = os.path.realpath(file) if os.path.islink(file) else os.path.join(parents[parent], name)
            if real not in class_of:
                class_of[real] = folder
                kept[folder].append(file)
            elif class_of[real] != folder:
                twice = file.relative_to(root).as_posix()
                raise InputError(f"dataset {str(root)!r} has {twice!r} in class {class_of[real]!r} too, by a link")
    copies = sum(map(len, found.values())) - len(class_of)
    if copies:
        _log.warning("%d %s of %s are links to others of their class, and are left out", copies, kind, root)
    return kept
