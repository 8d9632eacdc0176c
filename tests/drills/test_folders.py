"""Random trees of folders with odd names, links and splits: never a copy, never a split as a class, or a reason."""

import os
import random
import shutil
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest

from plm_core.datasets import digest, kind_of, load_splits
from plm_core.datasets.layout import split_word
from plm_core.datasets.loading import read_dataset
from plm_core.prediction.files import find_files

CLASSES = [
    "cat",
    "dog",
    "Cat",
    "10",
    "9",
    "a b",
    "train car",
    "tests",
    "café",
    normalize("NFD", "café"),
    "\u732b",
    "-x",
]
SPLITS = ["train", "Train", "TRAINING", "train_set", "seg_train", "val", "valid", "Test", "testing", "test2017", "dev"]
ODD = [
    ".hidden",
    "__MACOSX",
    ".ipynb_checkpoints",
    "a\nb",
    "\x1b[2J",
    os.fsdecode(b"\xff"),
    "unlabeled",
    "@eaDir",
    "...",
]
FILES = [
    "1.png",
    "2.PNG",
    "3.jpg",
    ".x.png",
    "._1.png",
    "notes.txt",
    "a\n.png",
    os.fsdecode(b"\xe9.png"),
    "1.mp4",
    "none",
]


def grow(root, draw, depth=0):
    """Make folders, files and links at random. Files are empty: only names are read."""
    root.mkdir(exist_ok=True)
    names = draw.choices([CLASSES, SPLITS, ODD], [6, 3 if depth < 2 else 1, 1], k=draw.choice([0, 1, 2, 3, 5]))
    for name in {draw.choice(group) for group in names}:
        way = draw.random()
        if depth < 3 and way < 0.7:
            grow(root / name, draw, depth + 1)
        elif way < 0.9:
            target = draw.choice(["..", ".", "../..", "nowhere", f"../{draw.choice(CLASSES)}", draw.choice(CLASSES)])
            (root / name).symlink_to(target)
    for name in draw.sample(FILES, draw.choice([0, 0, 2, 4]) if depth else draw.choice([0, 0, 0, 1])):
        if not os.path.lexists(root / name):
            (root / name).touch()


@pytest.mark.trials(short=40, long=1000)
def test_trees(trials, drill, tmp_path):
    for number in range(trials):
        home = tmp_path / str(number)  # where links that lead out of the data end, so that no tree reaches another
        root = home / "deep" / "data"
        root.parent.mkdir(parents=True)
        grow(root, random.Random(number))
        drill.attempt(f"{number} kind", lambda root=root: kind_of(root))
        drill.attempt(f"{number} splits", lambda root=root: load_splits(root))
        listed = drill.attempt(f"{number} files", lambda root=root: find_files([root]))
        if isinstance(listed, list):
            drill.expect(f"{number} files", len(listed) < 3000, f"{len(listed)} files: links in a circle")
        dataset = drill.attempt(number, lambda root=root: read_dataset(root))
        if not isinstance(dataset, Exception):
            judge(drill, number, root, dataset)
        shutil.rmtree(home)


def judge(drill, number, root, dataset):
    """Expect of a dataset that was read what the folders say."""
    real = [os.path.realpath(item) for item in dataset.items]
    drill.expect(f"{number} copies", len(set(real)) == len(real), "a file is read twice")
    tops = {Path(item).relative_to(dataset.source).parts[0] for item in dataset.items}
    drill.expect(f"{number} classes", {normalize("NFC", top) for top in tops} == set(dataset.classes), f"{tops}")
    drill.expect(f"{number} order", list(dataset.classes) == sorted(dataset.classes), f"{dataset.classes}")
    splits = {split_word(name) for name in dataset.classes} - {None}
    drill.expect(f"{number} splits", len(splits) < 2, f"splits are classes: {dataset.classes}")
    parts = [part for item in dataset.items for part in Path(item).relative_to(dataset.source).parts]
    hidden = [part for part in parts if part.startswith(".") or part in ("__MACOSX", "@eaDir")]
    drill.expect(f"{number} hidden", not hidden, f"{hidden}")
    told = "".join([*dataset.classes, *dataset.names])
    drill.expect(f"{number} names", "\n" not in told and "\x1b" not in told and told.encode(), "raw names")
    drill.expect(f"{number} labels", len(np.unique(dataset.labels)) == len(dataset.classes), "a class without files")
    drill.expect(f"{number} digest", digest(dataset) == digest(read_dataset(root)), "read differently twice")
