"""The true accuracies of models after fine-tuning: the paper's tables, which are shipped as data, or your own.

``data/controlled.csv`` and ``data/all.csv`` are the oracle tables that the authors of PARC published with their code
(Bolya, Mittapalli and Hoffman, NeurIPS 2021): test accuracy in percent after full fine-tuning of every model.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parc.benchmark.tables import KEY, columns, numbers
from parc.facts import LAYERS
from plm_core.errors import InputError

PUBLISHED = ("controlled", "all")

# Classes and images of the benchmark's datasets, as the published heuristics use them.
CLASSES = {
    "nabird": 555,
    "oxford_pets": 37,
    "cub200": 200,
    "caltech101": 101,
    "stanford_dogs": 120,
    "voc2007": 21,
    "cifar10": 10,
    "imagenet": 1000,
}
IMAGES = {
    "nabird": 24633,
    "oxford_pets": 3669,
    "cub200": 5794,
    "caltech101": 2630,
    "stanford_dogs": 8580,
    "voc2007": 2501,
    "cifar10": 50000,
    "imagenet": 150000,
}
# Self-supervised models whose fine-tuning visibly failed; the published evaluation leaves them out.
FAILED = ("swav_imagenet", "deepclusterv2_imagenet", "npid_imagenet", "moco_imagenet", "simclr_imagenet")
MULTILABEL = ("voc2007",)


@dataclass(frozen=True, eq=False)
class Oracle:
    """True accuracies, one row per transfer. All columns have the same length.

    Attributes:
        architecture: Name of the architecture, str [N].
        source: Dataset that the model was trained on, str [N]. Architecture and source name a model.
        target: Dataset that the model was fine-tuned on, str [N].
        accuracy: Test accuracy, float64 [N]; higher is better. 0 or less if the transfer failed.
        layers: Depth by architecture, for the capacity heuristic and the baselines.
        images: Number of images by dataset, for the baselines.
        classes: Number of classes by dataset, for the baselines.
    """

    architecture: NDArray[np.str_]
    source: NDArray[np.str_]
    target: NDArray[np.str_]
    accuracy: NDArray[np.float64]
    layers: Mapping[str, float] = field(default_factory=dict)
    images: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.accuracy)

    def where(self, mask: NDArray[np.bool_]) -> Oracle:
        """Return the rows that a boolean mask [N] selects."""
        return replace(self, **{name: getattr(self, name)[mask] for name in (*KEY, "accuracy")})

    def kept(self) -> Oracle:
        """Return the rows whose transfer did not fail."""
        return self.where(self.accuracy > 0)

    def transfers(self) -> list[tuple[str, str, str]]:
        """Return (architecture, source, target) of every row."""
        return list(zip(self.architecture.tolist(), self.source.tolist(), self.target.tolist(), strict=True))


def load_oracle(name: str = "controlled", failed: bool = False, multilabel: bool | None = None) -> Oracle:
    """Return one of the paper's oracle tables, with its rows in the order of the file.

    Args:
        name: "controlled" (4 architectures x 8 sources on 6 targets, 168 transfers) or "all" (with the crowd-sourced
            models: 65 models, 7 targets, 424 transfers).
        failed: Whether to keep the rows that the evaluation leaves out, with accuracy -1. These are the rows without a
            result, and the five self-supervised sources of `FAILED`, regardless of their accuracy in the file.
        multilabel: Whether to include voc2007, whose accuracy is a multi-label one; None for the published choice,
            "all" only.

    Raises:
        InputError: There is no such table.
    """
    if name not in PUBLISHED:
        raise InputError(f"oracle is {name!r}; {' and '.join(map(repr, PUBLISHED))} are allowed")
    text = (files("parc") / "data" / f"{name}.csv").read_text(encoding="utf-8")
    oracle = make_oracle(list(csv.DictReader(text.splitlines())), layers=LAYERS, images=IMAGES, classes=CLASSES)
    oracle.accuracy[np.isin(oracle.source, FAILED) | (oracle.accuracy <= 0)] = -1
    if not (name == "all" if multilabel is None else multilabel):
        oracle = oracle.where(~np.isin(oracle.target, MULTILABEL))
    return oracle if failed else oracle.kept()


def make_oracle(
    rows: Any,
    layers: Mapping[str, float] | None = None,
    images: Mapping[str, float] | None = None,
    classes: Mapping[str, float] | None = None,
) -> Oracle:
    """Make an oracle from your own accuracies.

    Args:
        rows: The columns architecture, source, target and oracle (or accuracy), in any form that `columns` reads.
        layers: Depth by architecture.
        images: Number of images by dataset.
        classes: Number of classes by dataset.

    Raises:
        InputError: A column is missing, an accuracy is not a number, or a transfer occurs twice.
    """
    table = columns(rows)
    for name in (*KEY, "oracle"):
        if name not in table:
            raise InputError(f"the oracle has no column {name!r}; it has {', '.join(table) or 'none'}")
    architecture, source, target = (table[name].astype(str) for name in KEY)
    accuracy = numbers("oracle", table["oracle"])
    oracle = Oracle(architecture, source, target, accuracy, layers or {}, images or {}, classes or {})
    if not np.isfinite(oracle.accuracy).all():
        raise InputError("the oracle's accuracy has NaN or infinite values; 0 or less says that a transfer failed")
    transfers: set[tuple[str, str, str]] = set()
    for transfer in oracle.transfers():
        if transfer in transfers:
            raise InputError(f"the oracle has two rows for {' / '.join(transfer)}")
        transfers.add(transfer)
    return oracle
