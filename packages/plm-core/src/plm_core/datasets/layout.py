"""The layout of a folder of data: its splits, its class folders and the files in them.

Files and folders whose names begin with a dot are not seen.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from pathlib import Path

TRAIN = ("train", "training")
"""Names of the split to train on, the preferred one first."""
VAL = ("val", "valid", "validation", "dev", "eval", "test", "testing")
"""Names of the split to judge a training on, the preferred one first."""


def find_splits(root: Path) -> tuple[Path, Path | None]:
    """Return the folders of the split to train on and of the one to judge it on, if there is one.

    A folder has splits if it holds one of `TRAIN` and one of `VAL`, whatever else it holds, or a training split alone.
    Otherwise its own folders are those of the classes, and the result is the folder itself and None.
    """
    names = subfolders(root)
    train, val = first(TRAIN, names), first(VAL, names)
    if train is None or not (val or (names == [train] and subfolders(root / train))):
        return root, None
    return root / train, None if val is None else root / val


def first(preferred: tuple[str, ...], names: Container[str]) -> str | None:
    """Return the first of the preferred names that is among ``names``, or None."""
    return next((name for name in preferred if name in names), None)


def subfolders(root: Path) -> list[str]:
    """Return the sorted names of the folders in a folder."""
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def files_below(root: Path) -> Iterator[Path]:
    """Yield the files in a folder and in the folders below it, and follow links."""
    for parent, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def is_saved(path: Path) -> bool:
    """Whether a folder was saved by Hugging Face's library."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))
