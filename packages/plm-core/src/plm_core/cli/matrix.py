"""``plm matrix``: which transforms, mergers and scorers work on which models."""

from __future__ import annotations

import typer

from plm_core.cli.options import Json
from plm_core.cli.table import show


def matrix(as_json: Json = False) -> None:
    """Try every transform, merger and scorer on every family. Show what works, and why the rest does not."""
    from plm_core.tools.matrix import compute, fold, with_notes

    rows = compute()
    if as_json:
        show(rows, as_json)
    else:
        short, notes = with_notes(fold(rows, "scorer"))
        show(short, title="what combines with what")
        show(notes)
    if any(str(cell).startswith("ERROR") for row in rows for cell in row.values()):
        raise typer.Exit(1)
