"""One way to print rows: as a table on a terminal, as tab-separated lines in a pipe, as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def show(rows: Sequence[Mapping[str, Any]], as_json: bool = False, title: str | None = None) -> None:
    """Print rows with equal keys to stdout. Values are printed in full unless stdout is a terminal."""
    if as_json:
        print(json.dumps(list(rows), indent=2, default=str))
        return
    if not rows:
        return
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(_plain(value) for value in row.values()))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(_plain(value)) for value in row.values()))
    Console().print(table)


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "" if value is None else str(value)
