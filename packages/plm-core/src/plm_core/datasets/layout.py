"""The layout of a folder of data: its splits, its class folders and the files in them.

Files and folders whose names begin with a dot, and those that archives and systems leave behind (`CLUTTER`), are not
seen. Links are followed, but not back to where they come from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from unicodedata import normalize

from plm_core.errors import InputError, escaped

TRAIN = ("train", "training")
"""Names of the split to train on."""
VAL = ("val", "valid", "validation", "dev", "eval", "test", "testing")
"""Names of the split to judge a training on, the preferred one first."""
BESIDE = ("set", "seg", "data", "dataset", "images", "imgs", "split")
"""Words that may stand beside such a name, as may a year: train_set, seg_train, train2017."""
CLUTTER = ("__macosx", "__pycache__", "@eadir", "$recycle.bin", "lost+found", "system volume information")
"""Names of folders that hold no data, in lower case."""


def find_splits(root: Path) -> tuple[Path, Path | None]:
    """Return the folders of the split to train on and of the one to judge it on, if there is one.

    A folder has splits if it holds one of `TRAIN` and one of `VAL`, whatever else it holds, or a training split alone.
    Otherwise its own folders are those of the classes, and the result is the folder itself and None. Case, the words
    of `BESIDE` and years make no difference. A split that holds nothing but a folder of its own name, as in
    ``seg_train/seg_train``, is that folder.

    Raises:
        InputError: A folder cannot be read, or it is not plain what is a split and what is a class.
    """
    names = subfolders(root)
    train, val = choose_splits(names, f"data {str(root)!r}")
    if train and val:
        return _inner(root / train), _inner(root / val)
    named = [name for name in names if split_word(name)]
    if train and names == [train]:
        return (_inner(root / train) if subfolders(root / train) else root), None
    if len(named) > 1 or (named == names and names):
        raise InputError(
            f"data {str(root)!r} has the splits {' and '.join(named)}, but none to train on; name the folder to read, "
            f"as in {root / named[0]}"
        )
    if named and _holds_folders_only(root / named[0]):
        others = ", ".join(escaped(name) for name in names if name not in named)
        raise InputError(
            f"data {str(root)!r} may be classes or splits: {named[0]} is named like a split and holds folders only, "
            f"but beside it are {others}; name the folder to read, or rename {named[0]}"
        )
    return root, None


def choose_splits(names: Iterable[str], what: str) -> tuple[str | None, str | None]:
    """Return the names of the split to train on and of the one to judge it on; None for each that is not there.

    Args:
        names: The names of all splits, or of all folders.
        what: The data, for the message.

    Raises:
        InputError: Two names stand for the same split.
    """
    by_word: dict[str, list[str]] = {}
    for name in names:
        if word := split_word(name):
            by_word.setdefault(TRAIN[0] if word in TRAIN else word, []).append(name)
    for several in by_word.values():
        if len(several) > 1:
            raise InputError(f"{what} has {' and '.join(several)}, which may be the same split; name one, or leave one")
    chosen = [next((by_word[word][0] for word in words if word in by_word), None) for words in (TRAIN, VAL)]
    return chosen[0], chosen[1]


def split_word(name: str) -> str | None:
    """Return which of `TRAIN` and `VAL` a name stands for: ``test`` for ``Test_set``; None if for neither."""
    words = re.split(r"[\W_]+|(?<=[a-z])set$|(?:19|20)\d\d", name.casefold())
    words = [word for word in words if word and word not in BESIDE]
    return words[0] if len(words) == 1 and words[0] in TRAIN + VAL else None


def _inner(split: Path) -> Path:
    while (
        len(names := subfolders(split)) == 1 and split_word(names[0]) and split_word(names[0]) == split_word(split.name)
    ):
        split = split / names[0]
    return split


def _holds_folders_only(folder: Path) -> bool:
    return len(subfolders(folder)) > 1 and all(map(_is_folder, _entries(folder)))


def subfolders(root: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted as they are spelt in Unicode's composed form."""
    names = [entry.name for entry in _entries(root) if _is_folder(entry)]
    return sorted(names, key=lambda name: (normalize("NFC", name), name))


def files_in(root: Path) -> list[str]:
    """Return the names of the files in a folder itself, sorted."""
    return [entry.name for entry in _entries(root) if not _is_folder(entry)]


def files_below(root: Path) -> Iterator[Path]:
    """Yield the files in a folder and in the folders below it, and follow links.

    A link to a folder that leads back to one on the way to it is left out: its files would be copies without an end.

    Raises:
        InputError: A folder cannot be read.
    """
    # each folder to read, with the real paths of the root and of the folders that were entered by a link or left by one
    waiting: list[tuple[str, tuple[str, ...]]] = [(str(root), (os.path.realpath(root),))]
    while waiting:
        folder, way = waiting.pop()
        folders: list[tuple[str, tuple[str, ...]]] = []
        for entry in _entries(folder):
            if not _is_folder(entry):
                yield Path(entry.path)
            elif not entry.is_symlink():
                folders.append((entry.path, way))
            else:
                here, target = os.path.realpath(folder), os.path.realpath(entry.path)
                if not any(Path(passed).is_relative_to(target) for passed in (*way, here)):
                    folders.append((entry.path, (*way, here, target)))
        waiting += reversed(folders)


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds and is not hidden, sorted by name."""
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not _hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as e:
        raise InputError(f"folder {str(folder)!r} cannot be read: {e.strerror}") from e


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # a link in a circle is an error for the entry, and no folder for os.path
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in CLUTTER


def is_saved(path: Path) -> bool:
    """Whether a folder was saved by Hugging Face's library."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))
