"""The files of a source of captions, which are found by their names alone: rows (.jsonl) or shards (.tar)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from plm_core.datasets.layout import choose_splits, files_in, find_splits

ROWS = "captions.jsonl"
"""The file with the rows of a folder."""
_NUMBER = re.compile(r"[-_.]?\d+$")


@dataclass(frozen=True)
class Part:
    """The files of one split, or of a source without splits."""

    source: str
    """Where they are, for messages: the folder of the shards, or the file."""
    name: str
    """The split in a word, such as ``val``."""
    files: tuple[Path, ...]
    """One file of rows (.jsonl), or all shards (.tar)."""

    @property
    def sharded(self) -> bool:
        """Whether the files are shards."""
        return self.files[0].suffix.lower() == ".tar"


Parts = tuple[Part, Part | None]
"""The part to train on, and the one to judge the training on if there is one."""


def is_captions(path: Path) -> bool:
    """Whether a file has the ending of a source of captions."""
    return path.suffix.lower() in (".jsonl", ".tar")


def find_rows(root: Path) -> Parts | None:
    """Return the rows of a folder: ``captions.jsonl``, or ``train.jsonl`` and perhaps ``val.jsonl``; or None.

    Splits are known by the names that `plm_core.datasets.layout.find_splits` knows for folders.

    Raises:
        InputError: The folder cannot be read, or two files may be the same split.
    """
    names = [name for name in files_in(root) if name.lower().endswith(".jsonl")]
    if ROWS in names:
        return _rows(root / ROWS), None
    stems = {name[: -len(".jsonl")]: name for name in names}
    train, val = choose_splits(stems, f"data {str(root)!r}")
    if train is None:
        return None
    return _rows(root / stems[train]), _rows(root / stems[val]) if val else None


def find_shards(root: Path) -> Parts | None:
    """Return the shards of a folder, or None: ``train-000.tar`` ... and ``val-000.tar`` ..., or those of other names.

    If some are named after a training split, the others that are not named after a split are left out. Otherwise all
    are one part.

    Raises:
        InputError: The folder cannot be read, or two groups of shards may be the same split.
    """
    groups: dict[str, list[Path]] = {}
    for name in files_in(root):
        if name.lower().endswith(".tar"):
            groups.setdefault(_NUMBER.sub("", name[: -len(".tar")]), []).append(root / name)
    if not groups:
        return None
    train, val = choose_splits(groups, f"data {str(root)!r}")
    if train is None:
        return Part(str(root), root.name, tuple(file for group in groups.values() for file in group)), None
    return _shards(root, train, groups[train]), _shards(root, val, groups[val]) if val else None


def find_parts(path: Path) -> Parts | None:
    """Return the files of a source of captions, or None if it is none.

    A file is its own only part. In a folder, rows are preferred to shards, and its own files to those of the folders
    of its splits.

    Raises:
        InputError: A folder cannot be read, or it is not plain what its splits are.
    """
    if path.is_file():
        return (Part(str(path), path.stem, (path,)), None) if is_captions(path) else None
    if rows := find_rows(path):
        return rows
    train, val = find_splits(path)
    if find_rows(train):
        return _of_folders(train, val)
    return find_shards(path) or _of_folders(train, val)


def _of_folders(train: Path, val: Path | None) -> Parts | None:
    """Return the parts that the folders of the splits hold; None if there is nothing to train on."""
    first = _only(train)
    return (first, _only(val) if val else None) if first else None


def _only(folder: Path) -> Part | None:
    """Return the part that the folder of a split holds."""
    parts = find_rows(folder) or find_shards(folder)
    return Part(parts[0].source, folder.name, parts[0].files) if parts else None


def _rows(file: Path) -> Part:
    return Part(str(file), file.stem, (file,))


def _shards(root: Path, name: str, files: list[Path]) -> Part:
    return Part(str(root / f"{name}*.tar"), name, tuple(files))
