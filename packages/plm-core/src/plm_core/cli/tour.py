"""``plm tour``: the installed packages at work, on data that ships with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plm_core.cli.options import Json
from plm_core.cli.table import show
from plm_core.errors import PlmError


def tour(
    out: Annotated[Path, typer.Option("--out", help="HTML report to write.")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """Show the installed packages at work on data that ships with them, and write a self-contained report."""
    from plm_core.tools.tour import run

    rows = run(out)
    show(rows, as_json, title="tour of the installed packages")
    typer.echo(f"report: {out.resolve()}", err=True)
    if any(row["fact"] == "FAILED" for row in rows):
        raise PlmError("a stop of the tour failed; see the table and the report")
