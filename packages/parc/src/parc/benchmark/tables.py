"""Tables as plain columns, read from a dict, a pandas DataFrame, or the rows of a csv file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plm_core.errors import InputError

Array = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]
KEY = ("architecture", "source", "target")  # architecture and source name a model


def columns(rows: Any) -> Columns:
    """Read a table: a mapping of columns (a dict, a pandas DataFrame) or a sequence of mappings (csv.DictReader).

    The names architecture, source, target, run and oracle (or accuracy) may be in any case and with or without
    "dataset", so the published "Source Dataset" becomes "source". All other names are methods and stay unchanged.

    Raises:
        InputError: The columns differ in length, two columns have one meaning, a row has other names, or ``rows`` is no
            table.
    """
    if hasattr(rows, "keys"):
        names = list(rows.keys())
        table = {_plain(name): np.asarray(rows[name]) for name in names}
    elif isinstance(rows, Iterable) and not isinstance(rows, str):
        listed = list(rows)
        table, names = _transposed(listed), list(listed[0])
    else:
        raise InputError(f"a table is needed, as a mapping of columns or a list of mappings; got {type(rows).__name__}")
    if len(table) < len(names):
        raise InputError(f"the table has two columns of one meaning among {', '.join(map(str, names))}")
    lengths = {name: len(values) for name, values in table.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"the table's columns differ in length: {lengths}")
    return table


def numbers(name: str, values: NDArray[Any]) -> Array:
    """Return a column as float64. Empty text becomes NaN.

    Raises:
        InputError: A value is not a number.
    """
    try:
        return np.array([np.nan if value in ("", None) else value for value in values.tolist()], np.float64)
    except (TypeError, ValueError) as e:
        raise InputError(f"column {name!r} is not numeric ({str(e).splitlines()[0]})") from e


def looked_up(fact: str, values: Mapping[str, float], names: NDArray[Any]) -> Array:
    """Return the number of each name, float64 [N].

    Raises:
        InputError: The mapping lacks a name.
    """
    if lacking := sorted(set(names.tolist()) - set(values)):
        raise InputError(f"{fact} has no entry for {', '.join(lacking)}; it has {', '.join(map(str, values))}")
    return np.array([values[name] for name in names.tolist()], np.float64)


def _plain(name: Any) -> str:
    plain = str(name).lower().replace("dataset", "").strip(" _")
    if plain == "accuracy":
        return "oracle"
    return plain if plain in (*KEY, "run", "oracle") else str(name)


def _transposed(rows: Sequence[Mapping[str, Any]]) -> Columns:
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        raise InputError("the table has no rows" if not rows else "the table's rows are no mappings of names to values")
    names = list(rows[0])
    for index, row in enumerate(rows):
        if set(row) != set(names):
            raise InputError(f"row {index} of the table has columns {', '.join(row)}; row 0 has {', '.join(names)}")
    return {_plain(name): np.array([row[name] for row in rows]) for name in names}
