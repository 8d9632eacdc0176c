"""A dataset from the Hugging Face Hub, or from a folder that Hugging Face's library has saved."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plm_core.datasets.labelled import Dataset, numbered
from plm_core.datasets.layout import choose_splits, is_saved
from plm_core.errors import InputError, MissingDependency
from plm_core.utils.near_misses import miss
from plm_core.utils.text import first_line

_log = logging.getLogger("plm_core")


@dataclass(frozen=True)
class _Source:
    """What ``hf:name:split,config=...,label=...,image=...`` asks for. A folder stands for its name alone."""

    text: str
    name: str
    split: str = ""
    config: str = ""
    label: str = ""
    image: str = ""

    @classmethod
    def parse(cls, text: str | Path) -> _Source:
        if not str(text).startswith("hf:"):
            return cls(str(text), str(text))
        place, *options = str(text).removeprefix("hf:").split(",")
        name, _, split = place.partition(":")
        choices: dict[str, str] = {}
        for option in options:
            key, _, value = option.partition("=")
            if key not in ("config", "label", "image") or not value or key in choices:
                raise InputError(
                    f"dataset {text!r} ends in {option!r}; config=NAME, label=COLUMN and image=COLUMN are allowed, "
                    "each once"
                )
            choices[key] = value
        return cls(str(text), name, split, **choices)


class _Column(Sequence[Any]):
    """The encoded images of a table, fetched one by one."""

    def __init__(self, table: Any, column: str) -> None:
        self.table = table
        self.column = column

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Any:
        value = self.table[int(index)][self.column] or {}
        if value.get("bytes") is not None:
            return value["bytes"]
        if value.get("path") is None:
            raise InputError("there is no image in this row")
        return Path(value["path"])


def read_table(source: str | Path) -> Dataset:
    """Read the split that is named, or else the one to train on, or the only one.

    Args:
        source: A folder that Hugging Face's library has saved, or ``hf:name[:split]`` with ``name`` of the Hugging Face
            Hub or such a folder. ``,config=NAME``, ``,label=COLUMN`` and ``,image=COLUMN`` may follow.

    Raises:
        InputError: The dataset cannot be loaded, has no such split, or its columns are of another form.
        MissingDependency: Hugging Face datasets are not installed.
    """
    wanted = _Source.parse(source)
    return _read(wanted, _one_table(wanted))


def load_table(source: str | Path) -> Any:
    """Return the split that is named, or else the one to train on, or the only one, as Hugging Face's library has it.

    Images stay encoded: each is a mapping with ``bytes`` and ``path``, one of which may be None.

    Args:
        source: As for `read_table`, without label= and image=.

    Raises:
        InputError: The dataset cannot be loaded, has no such split, or no rows.
        MissingDependency: Hugging Face datasets are not installed.
    """
    wanted = _Source.parse(source)
    if wanted.label or wanted.image:
        raise InputError(f"dataset {wanted.text!r}: label= and image= are for labelled images, and not allowed here")
    table, library = _one_table(wanted), _import_datasets()
    if not len(table):
        raise InputError(f"dataset {wanted.text!r} has no rows")
    encoded = library.Image(decode=False)
    for name, kind in table.features.items():
        if isinstance(kind, library.Image):
            table = table.cast_column(name, encoded)
        elif isinstance(getattr(kind, "feature", None), library.Image):
            table = table.cast_column(name, library.List(encoded))
    return table


def _one_table(wanted: _Source) -> Any:
    tables = _load(wanted, wanted.split or "train")
    if not isinstance(tables, Mapping):
        return tables
    train, _ = choose_splits(tables, f"dataset {wanted.text!r}")
    if train is None and len(tables) > 1:
        raise _no_train(wanted, tables)
    return tables[train or next(iter(tables))]


def read_table_splits(source: str | Path) -> tuple[Dataset, Dataset | None]:
    """Read the split to train on and the one to judge it on, if there is one. A split that is named has none beside it.

    Args:
        source: As for `read_table`.

    Raises:
        InputError: As for `read_table`, or there is no split to train on.
        MissingDependency: Hugging Face datasets are not installed.
    """
    wanted = _Source.parse(source)
    tables = _load(wanted, wanted.split or None)
    if not isinstance(tables, Mapping):
        return _read(wanted, tables), None
    train, val = choose_splits(tables, f"dataset {wanted.text!r}")
    if train is None:
        raise _no_train(wanted, tables)
    return _read(wanted, tables[train]), None if val is None else _read(wanted, tables[val], f":{val}")


def _load(wanted: _Source, split: str | None) -> Any:
    """Return a table, or the tables of all splits by name: of a saved folder unless a split is named."""
    library = _import_datasets()
    try:
        if not is_saved(Path(wanted.name)):
            return library.load_dataset(wanted.name, wanted.config or None, split=split)
        tables = library.load_from_disk(wanted.name)
    except Exception as e:  # the errors of the network, the Hub, the parsers and pyarrow have no common base
        raise InputError(f"dataset {wanted.text!r} cannot be loaded: {first_line(e)}") from e
    if not wanted.split:
        return tables
    if not isinstance(tables, Mapping) or wanted.split not in tables:
        has = f"the splits {', '.join(tables)}" if isinstance(tables, Mapping) else "no splits"
        raise InputError(f"dataset {wanted.text!r} has no split {wanted.split!r}, but {has}")
    return tables[wanted.split]


def _no_train(wanted: _Source, tables: Mapping[str, Any]) -> InputError:
    return InputError(f"dataset {wanted.text!r} has no split named train, but {', '.join(tables)}")


def _import_datasets() -> Any:
    try:
        import datasets
    except ModuleNotFoundError as e:
        raise MissingDependency("Hugging Face datasets are not installed: install plm-core[datasets]") from e
    return datasets


def _read(wanted: _Source, table: Any, suffix: str = "") -> Dataset:
    library = _import_datasets()
    image, label = _image_column(wanted, table, library), _label_column(wanted, table, library)
    encoded = table.select_columns([image]).cast_column(image, library.Image(decode=False))
    names = [f"row {i}" for i in range(len(table))]
    labels, classes = _labels(wanted.text, table.with_format(None)[label], table.features[label], library)
    return Dataset(wanted.text + suffix, names, labels, classes, _Column(encoded, image))


def _image_column(wanted: _Source, table: Any, library: Any) -> str:
    columns = [name for name, kind in table.features.items() if isinstance(kind, library.Image)]
    if wanted.image:
        columns = [_named(wanted, "image", wanted.image, columns)]
    if len(columns) != 1 or not len(table):
        listed = ", ".join(table.features) or "no column"
        hint = "; name one, as in hf:name,image=COLUMN" if len(columns) > 1 else ""
        raise InputError(
            f"dataset {wanted.text!r} has {len(columns)} columns of images in {len(table)} rows ({listed}){hint}"
        )
    return columns[0]


def _label_column(wanted: _Source, table: Any, library: Any) -> str:
    """Return the column that is named; or else that called label or labels, or the first column of class labels."""
    features = table.features
    if wanted.label:
        return _named(wanted, "label", wanted.label, list(features))
    kinds = [name for name, kind in features.items() if isinstance(getattr(kind, "feature", kind), library.ClassLabel)]
    named = [name for name in ("label", "labels") if name in features]
    column = next(iter(named + kinds), None)
    if not named and len(kinds) > 1:
        _log.warning(
            "dataset %s has several columns of labels (%s): %s is used; hf:name,label=COLUMN names another",
            wanted.text,
            ", ".join(kinds),
            column,
        )
    if not column:
        raise InputError(
            f"dataset {wanted.text!r} has no column of labels among {', '.join(features)}; "
            "name one, as in hf:name,label=COLUMN"
        )
    return column


def _named(wanted: _Source, what: str, column: str, columns: Sequence[str]) -> str:
    if column not in columns:
        raise InputError(f"dataset {wanted.text!r}: {miss(f'column of {what}s', column, columns)}")
    return column


def _labels(source: str, column: Any, kind: Any, library: Any) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    values = list(column)
    inner = getattr(kind, "feature", None)
    if inner is not None:  # an image has a list of labels
        return _listed(source, values, inner.names if isinstance(inner, library.ClassLabel) else None)
    if any(value is None for value in values) or (isinstance(kind, library.ClassLabel) and min(values) < 0):
        raise InputError(f"dataset {source!r} has rows without a label")  # such as a test split
    if isinstance(kind, library.ClassLabel):
        return np.array(values, np.int64), tuple(kind.names)
    return numbered(_array(source, values), source)


def _listed(
    source: str, values: Sequence[Any], names: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return lists of labels as zeros and ones; as class numbers if each has one label."""
    lists = [[] if value is None else list(value) for value in values]
    flat = _array(source, [label for labels in lists for label in labels])
    numbers, classes = (flat, tuple(names)) if names is not None else numbered(flat, source)
    if all(len(labels) == 1 for labels in lists):
        return numbers.astype(np.int64), classes
    multi_hot = np.zeros((len(lists), len(classes)), np.int64)
    multi_hot[np.repeat(np.arange(len(lists)), [len(labels) for labels in lists]), numbers] = 1
    return multi_hot, classes


def _array(source: str, values: Sequence[Any]) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as e:  # lists of several lengths
        raise InputError(f"labels of {source!r} are no numbers or words: {first_line(e)}") from e
