"""A dataset from the Hugging Face Hub, or from a folder that Hugging Face's library has saved."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plm_core.datasets.labelled import Dataset, numbered
from plm_core.errors import InputError, MissingDependency
from plm_core.utils.text import first_line

_log = logging.getLogger("plm_core")


class _Column(Sequence[Any]):
    """The encoded images of a table, fetched one by one."""

    def __init__(self, table: Any, column: str) -> None:
        self.table = table
        self.column = column

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Any:
        value = self.table[int(index)][self.column]
        return value["bytes"] if value["bytes"] is not None else Path(value["path"])


def read_hub(source: str) -> Dataset:
    """Read ``hf:name`` or ``hf:name:split`` from the Hugging Face Hub; the default split is train.

    Raises:
        InputError: The dataset cannot be downloaded, or its columns are of another form.
        MissingDependency: Hugging Face datasets are not installed.
    """
    library = _import_datasets()
    name, _, split = source.removeprefix("hf:").partition(":")
    try:
        table = library.load_dataset(name, split=split or "train")
    except Exception as e:  # the errors of the network, the Hub and the parsers have no common base
        raise InputError(f"dataset {source!r} cannot be loaded: {first_line(e)}") from e
    return _read_table(source, table)


def is_saved(path: Path) -> bool:
    """Whether a folder was saved by Hugging Face's library."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))


def read_saved(path: Path) -> Dataset:
    """Read a folder that Hugging Face's library has saved. Of several splits, train is used, or else the first.

    Raises:
        InputError: The folder cannot be read, or its columns are of another form.
        MissingDependency: Hugging Face datasets are not installed.
    """
    library = _import_datasets()
    try:
        table = library.load_from_disk(str(path))
    except Exception as e:  # the errors of pyarrow have no common base either
        raise InputError(f"dataset {str(path)!r} cannot be read: {first_line(e)}") from e
    if hasattr(table, "keys"):  # a DatasetDict
        split = "train" if "train" in table else next(iter(table))
        table = table[split]
    return _read_table(str(path), table)


def _import_datasets() -> Any:
    try:
        import datasets
    except ModuleNotFoundError as e:
        raise MissingDependency("Hugging Face datasets are not installed: install plm-core[datasets]") from e
    return datasets


def _read_table(source: str, table: Any) -> Dataset:
    library = _import_datasets()
    features = table.features
    image_columns = [name for name, kind in features.items() if isinstance(kind, library.Image)]
    if len(image_columns) != 1 or not len(table):
        listed = ", ".join(features) or "no column"
        raise InputError(
            f"dataset {source!r} has {len(image_columns)} columns of images in {len(table)} rows ({listed})"
        )
    column = _label_column(source, features, library)
    encoded = table.select_columns(image_columns).cast_column(image_columns[0], library.Image(decode=False))
    names = [f"row {i}" for i in range(len(table))]
    labels, classes = _labels(source, table.with_format(None)[column], features[column], library)
    return Dataset(source, names, labels, classes, _Column(encoded, image_columns[0]))


def _label_column(source: str, features: Any, library: Any) -> str:
    """Return the column called label or labels, or else the first column of class labels."""
    kinds = [name for name, kind in features.items() if isinstance(getattr(kind, "feature", kind), library.ClassLabel)]
    named = [name for name in ("label", "labels") if name in features]
    column = next(iter(named + kinds), None)
    if not named and len(kinds) > 1:
        _log.warning("dataset %s has several columns of labels (%s): %s is used", source, ", ".join(kinds), column)
    if not column:
        raise InputError(f"dataset {source!r} has no column of labels among {', '.join(features)}")
    return column


def _labels(source: str, column: Any, kind: Any, library: Any) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    inner = getattr(kind, "feature", None)
    if isinstance(inner, library.ClassLabel):  # an image has several labels
        multi_hot = np.zeros((len(column), inner.num_classes), np.int64)
        for row, of_image in enumerate(column):
            multi_hot[row, list(of_image)] = 1
        return multi_hot, tuple(inner.names)
    labels = np.asarray(list(column))
    if not isinstance(kind, library.ClassLabel):
        return numbered(labels, source)
    if labels.dtype.kind not in "iu" or labels.min() < 0:  # a test split without labels holds -1 or None
        raise InputError(f"dataset {source!r} has rows without a label")
    return labels.astype(np.int64), tuple(kind.names)
