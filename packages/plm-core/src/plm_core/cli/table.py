"""One way to print rows: as a table on a terminal, as tab-separated lines in a pipe, as JSON for programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from plm_core.errors import escaped

GAP = 2
"""Characters between two columns of a table."""
BREAK = re.compile(r"[^_/.,:-]*[_/.,:-]+|[^_/.,:-]+")
"""The pieces between which a word that is too long for its column is broken."""


def show(rows: Sequence[Mapping[str, Any]], as_json: bool = False, title: str | None = None) -> None:
    """Print rows with equal keys to stdout.

    On a terminal it is a table that fits it, without the columns that are empty. Otherwise a header line and then the
    rows are printed in full.
    """
    if as_json:
        print(json.dumps(list(rows), indent=2, default=str))
        return
    if not rows:
        return
    cells = [[_plain(value) for value in row.values()] for row in rows]
    if not sys.stdout.isatty():
        for line in (list(rows[0]), *cells):
            print("\t".join(line))
        return
    columns = [(name, column) for name, *column in zip(rows[0], *cells, strict=True) if any(column)]
    _print_table(columns, title)


def _print_table(columns: Sequence[tuple[str, Sequence[str]]], title: str | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    widths = fit([[name, *column] for name, column in columns], console.width - GAP * (len(columns) + 1))
    if widths is None:  # not even the longest pieces fit side by side: one line for each cell
        for row in zip(*(column for _, column in columns), strict=True):
            for (name, _), cell in zip(columns, row, strict=True):
                console.print(Text(f"{name}: {cell}"))
            console.print()
        return
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for (name, _), width in zip(columns, widths, strict=True):
        table.add_column(Text(wrap(name, width)), width=width)
    for row in zip(*(column for _, column in columns), strict=True):
        table.add_row(*(Text(wrap(cell, width)) for cell, width in zip(row, widths, strict=True)))
    console.print(table)


def fit(columns: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Return the widths of columns that fit into ``room`` characters together, or None if there are none.

    The widest columns are narrowed first, and the first column, which holds the names, last. No word has to be broken
    at any other place than `BREAK`.
    """
    widths = [max(map(len, column)) for column in columns]
    least = [max((len(piece) for cell in column for piece in _pieces(cell)), default=0) for column in columns]
    while sum(widths) > room:
        candidates = [i for i in range(len(widths)) if widths[i] > least[i]]
        if not candidates:
            return None
        widths[max(candidates, key=lambda i: (i > 0, widths[i]))] -= 1
    return widths


def wrap(text: str, width: int) -> str:
    """Wrap text at spaces, and a word that is longer than a line at `BREAK`."""
    lines = [""]
    for word in text.split():
        space = " " if lines[-1] else ""
        if len(lines[-1]) + len(space) + len(word) <= width:
            lines[-1] += space + word
            continue
        if lines[-1]:
            lines.append("")
        for piece in BREAK.findall(word):
            if len(lines[-1]) + len(piece) > width and lines[-1]:
                lines.append("")
            lines[-1] += piece
    return "\n".join(lines)


def _pieces(cell: str) -> list[str]:
    return [piece for word in cell.split() for piece in BREAK.findall(word)]


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return escaped(" ".join(map(str, value)))
    return "" if value is None else escaped(str(value))
