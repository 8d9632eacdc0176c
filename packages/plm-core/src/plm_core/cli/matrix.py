"""``plm matrix``: which transforms, mergers and scorers work on which models."""

from __future__ import annotations

import typer

from plm_core.cli.options import Json
from plm_core.cli.table import show


def matrix(as_json: Json = False) -> None:
    """Try every transform, merger and scorer on every family. Show what works, and why the rest does not."""
    from plm_core.tools.matrix import compute, fold

    rows = compute()
    show(rows if as_json else fold(rows, "scorer"), as_json, title="what combines with what")
    if any(str(cell).startswith("ERROR") for row in rows for cell in row.values()):
        raise typer.Exit(1)
