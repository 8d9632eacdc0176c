"""The two parts of a source of labelled images or videos: one to train on, and one to judge the training on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plm_core.datasets.checking import readable
from plm_core.datasets.huggingface import read_table_splits
from plm_core.datasets.kinds import kind_of
from plm_core.datasets.labelled import Dataset
from plm_core.datasets.layout import find_splits, is_saved, split_word
from plm_core.datasets.loading import check_labels, read_dataset, read_folder
from plm_core.errors import InputError

HOLDOUT = 0.1
"""Share of the items that is held out where a source has no split to judge by."""
MAX_NAMES = 4
"""Number of classes that an error names."""


@dataclass(frozen=True)
class Splits:
    """Two parts of a dataset, with the same classes in the same order."""

    train: Dataset
    val: Dataset
    note: str
    """Where the second part comes from, for people to read."""
    name: str = "val"
    """The second part in a word: ``test`` if it is a split of such a name, which some data have instead of ``val``."""


def load_splits(
    source: str | Path, seed: int = 0, holdout: float = HOLDOUT, skip_unreadable: bool | None = None
) -> Splits:
    """Read the names and labels of the images or videos to train on and of those to judge the training on.

    The source may have splits of its own: folders (see
    `plm_core.datasets.layout.find_splits`) or the splits of Hugging Face datasets. Training is then on ``train``, and
    the other part is the first of these that is there: val, valid, validation, dev, eval, test, testing. From a source
    without them a share is held out, class by class. Each class keeps at least one item to train on, and may get none
    to be judged on if it has few.

    Args:
        source: As for `plm_core.datasets.load_dataset`. ``hf:name:split`` has no splits of its own.
        seed: Seed of the draw of the items that are held out.
        holdout: Share of the items that is held out, between 0 and 1.
        skip_unreadable: None to decode no image and open no video. Otherwise each is read, and those that cannot be are
            left out with a warning, or are an error; see `plm_core.datasets.readable`.

    Raises:
        InputError: The source cannot be read (see `load_dataset`), its splits have different classes, ``holdout`` is
            not allowed, or images or videos cannot be read.
        MissingDependency: Hugging Face datasets are not installed.
    """
    check_share(holdout)
    train, val = own_splits(source, skip_unreadable)
    if val is None:
        kept, held_out = hold_out(train.labels, seed, holdout)
        note = f"{100 * holdout:g} % of the {train.kind} ({len(held_out)} of {len(train)}) held out, seed {seed}"
        return Splits(train.take(kept), train.take(held_out), note)
    name = _name(val.source)
    word = "test" if (split_word(name) or "").startswith("test") else "val"
    return Splits(train, val, f"{len(val)} {val.kind} of the split {name}", word)


def check_share(holdout: float) -> None:
    """Check the share of the items that is to be held out.

    Raises:
        InputError: It is not between 0 and 1.
    """
    if not 0 < holdout < 1:
        raise InputError(f"holdout is {holdout}; a number between 0 and 1 is allowed")


def own_splits(source: str | Path, skip_unreadable: bool | None = None) -> tuple[Dataset, Dataset | None]:
    """Read the items to train on and, if the source has a split for that, those to judge the training on.

    See `load_splits`, which also holds items out where there is no such split, and has the same errors.
    """
    train, val = _read(source)
    if val is not None:
        check_classes(source, train.classes, val.classes)
    if skip_unreadable is not None:
        train, val = readable(train, skip_unreadable), val and readable(val, skip_unreadable)
    return check_labels(train), val


def _read(source: str | Path) -> tuple[Dataset, Dataset | None]:
    path = Path(source)
    if str(source).startswith("hf:") or is_saved(path):
        return read_table_splits(source)
    if path.is_dir() and (folders := find_splits(path))[1] is not None:
        kind = kind_of(path)
        return read_folder(folders[0], kind), read_folder(folders[1], kind)
    return read_dataset(source), None


def _name(source: str) -> str:
    """Return the last part of a source: a model card should not tell where somebody keeps data."""
    return Path(source).name.rpartition(":")[2]


def check_classes(source: str | Path, train: Sequence[str], val: Sequence[str]) -> None:
    """Check that two splits have the same classes in the same order.

    Raises:
        InputError: They differ. The message names some classes that are not in both.
    """
    if list(train) != list(val):
        unshared = sorted({*train} ^ {*val})
        names = ", ".join([*unshared[:MAX_NAMES], *["..."] * (len(unshared) > MAX_NAMES)])
        raise InputError(
            f"data {str(source)!r} must have the same classes in both splits, in the same order; "
            f"not in both: {names or 'none, but the order differs'}"
        )


def hold_out(labels: NDArray[np.int64], seed: int, share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ascending indices of the images that are kept and of those that are held out.

    Classes give images in proportion to their size, by the largest remainders, and keep at least one. Images with
    several labels are drawn without regard to them.

    Args:
        labels: Class numbers [N], or zeros and ones [N, C].
        seed: Seed of the draw.
        share: Share of the images to hold out. At least one is held out.
    """
    rng = np.random.default_rng(seed)
    groups = [np.arange(len(labels))]
    if labels.ndim == 1:
        groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    wanted = np.array([share * len(group) for group in groups])
    most = np.array([len(group) - 1 for group in groups])
    counts = np.minimum(np.floor(wanted).astype(int), most)
    missing = min(max(round(share * len(labels)), 1), int(most.sum())) - int(counts.sum())
    # equal remainders are drawn by lot, since otherwise the first classes would give the images
    for place in sorted(rng.permutation(len(groups)), key=lambda i: counts[i] - wanted[i]):
        if missing > 0 and counts[place] < most[place]:
            counts[place] += 1
            missing -= 1
    parts = [rng.permutation(group)[:count] for group, count in zip(groups, counts, strict=True)]
    held_out = np.sort(np.concatenate(parts))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out
