"""Results as files: csv, JSON, a Markdown table or a picture, by the ending of the name."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from plm_core.errors import InputError, MissingDependency
from plm_core.utils import plots
from plm_core.utils.files import atomic_path, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

PICTURES = (".png", ".svg", ".pdf")
TEXTS = (".csv", ".json", ".md")
EXTRA = "parc[plot]"  # installs matplotlib


class Result(Protocol):
    """Anything that can be written: a ranking or a probing."""

    @property
    def rows(self) -> Sequence[Any]:
        """The rows of a csv file, each a dataclass."""

    def table(self) -> list[dict[str, Any]]:
        """Return the rows of a Markdown table."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""

    def figure(self) -> Figure:
        """Draw the picture."""


def check_path(path: str | Path, endings: Sequence[str] = (*TEXTS, *PICTURES)) -> None:
    """Check that a result can be written to a file of this name.

    Raises:
        InputError: The ending is not one of ``endings``.
        MissingDependency: The ending is that of a picture, but matplotlib is not installed.
    """
    ending = Path(path).suffix.lower()
    if ending not in endings:
        raise InputError(f"file {str(path)!r} has ending {ending!r}; {', '.join(endings)} are allowed")
    if ending in PICTURES:
        plots.require_matplotlib("a picture", EXTRA)


def write(result: Result, path: str | Path) -> None:
    """Write a result to a file, completely or not at all. The ending of its name decides what is written.

    Raises:
        InputError: The ending is not one of `TEXTS` and `PICTURES`.
        MissingDependency: A picture is to be written, but matplotlib is not installed.
        FileError: The file cannot be written.
    """
    check_path(path)
    ending = Path(path).suffix.lower()
    if ending in PICTURES:
        drawn = io.BytesIO()  # matplotlib says nothing useful of a disk that is full
        result.figure().savefig(drawn, format=ending[1:], dpi=150)
        with atomic_path(path) as part:
            part.write_bytes(drawn.getvalue())
    elif ending == ".csv":
        write_text(path, csv_text(result.rows))
    elif ending == ".json":
        write_text(path, json.dumps(result.as_dict(), indent=2, default=str) + "\n")
    else:
        write_text(path, markdown_text(result.table()))


def csv_text(rows: Sequence[Any]) -> str:
    """Return rows, each a dataclass, as the text of a csv file."""
    dicts = [asdict(row) for row in rows]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dicts[0]) if dicts else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dicts)
    return out.getvalue()


def data_frame(rows: Sequence[Any]) -> DataFrame:
    """Return rows, each a dataclass, as a data frame of pandas.

    Raises:
        MissingDependency: pandas is not installed.
    """
    try:
        import pandas
    except ModuleNotFoundError as e:
        raise MissingDependency("a data frame needs pandas: install parc[pandas]") from e
    return pandas.DataFrame([asdict(row) for row in rows])


def plain_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with equal keys as a table of text, with columns of equal width and without empty columns."""
    lines = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)] if rows else []
    columns = [column for column in zip(*lines, strict=True) if any(column[1:])]
    padded = [[cell.ljust(max(map(len, column))) for cell in column] for column in columns]
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))


def markdown_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with equal keys as a Markdown table."""
    lines = [_cells(list(rows[0])), _cells(["---"] * len(rows[0]))] if rows else []
    return "\n".join([*lines, *(_cells(list(row.values())) for row in rows), ""])


def _cells(values: Sequence[Any]) -> str:
    cells = [_text(value).replace("|", "\\|") for value in values]
    return f"| {' | '.join(cells)} |"


def _text(value: Any) -> str:
    return "" if value is None else str(value).replace("\n", " ")
