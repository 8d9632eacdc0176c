"""A dataset from the Hugging Face Hub, or from a folder that Hugging Face's library has saved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plm_core.datasets.labelled import Dataset, numbered
from plm_core.datasets.layout import TRAIN, VAL, first
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
    return _read_table(source, _loaded(source, lambda: library.load_dataset(name, split=split or "train")))


def read_hub_splits(source: str) -> tuple[Dataset, Dataset | None]:
    """Read the split to train on and the one to judge it on, if there is one. ``hf:name:split`` has none.

    Raises:
        InputError: The dataset cannot be downloaded, has no split to train on, or its columns are of another form.
        MissingDependency: Hugging Face datasets are not installed.
    """
    library = _import_datasets()
    name, _, split = source.removeprefix("hf:").partition(":")
    if split:
        return read_hub(source), None
    return _train_and_val(source, _loaded(source, lambda: library.load_dataset(name)))


def read_saved(path: Path) -> Dataset:
    """Read a folder that Hugging Face's library has saved. Of several splits, train is used, or else the first.

    Raises:
        InputError: The folder cannot be read, or its columns are of another form.
        MissingDependency: Hugging Face datasets are not installed.
    """
    table = _read(path)
    if hasattr(table, "keys"):  # a DatasetDict
        table = table[first(TRAIN, table) or next(iter(table))]
    return _read_table(str(path), table)


def read_saved_splits(path: Path) -> tuple[Dataset, Dataset | None]:
    """Read the split to train on and the one to judge it on, if there is one.

    Raises:
        InputError: The folder cannot be read, has no split to train on, or its columns are of another form.
        MissingDependency: Hugging Face datasets are not installed.
    """
    table = _read(path)
    if hasattr(table, "keys"):
        return _train_and_val(str(path), table)
    return _read_table(str(path), table), None


def _read(path: Path) -> Any:
    library = _import_datasets()
    return _loaded(str(path), lambda: library.load_from_disk(str(path)))


def _loaded(source: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as e:  # the errors of the network, the Hub, the parsers and pyarrow have no common base
        raise InputError(f"dataset {source!r} cannot be loaded: {first_line(e)}") from e


def _train_and_val(source: str, tables: Mapping[str, Any]) -> tuple[Dataset, Dataset | None]:
    train, val = first(TRAIN, tables), first(VAL, tables)
    if train is None:
        raise InputError(f"dataset {source!r} has no split named train, but {', '.join(tables)}")
    return _read_table(source, tables[train]), None if val is None else _read_table(f"{source}:{val}", tables[val])


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
