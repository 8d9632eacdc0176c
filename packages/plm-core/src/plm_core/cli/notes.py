"""Lines on stderr that several commands print beside their results, and text of a model as a terminal may show it."""

from __future__ import annotations

from typing import Any

import typer

from plm_core.errors import escaped


def say_packed(model: Any, fast: bool) -> None:
    """Say how many layers of a model that was to be fast are packed. Why none can be is said when it is loaded."""
    from plm_core import packing
    from plm_core.transforms import applied_to

    if fast and packing.NAME in applied_to(model):
        typer.echo(f"fast: {packing.report(model)}", err=True)


def say_model(name: str) -> None:
    """Say which language model answers, and what a micro model is."""
    micro = ", a micro model, which only knows the world of shapes" if "_micro_" in name.partition(".")[0] else ""
    typer.echo(f"model: {escaped(name)}{micro}", err=True)


def printable(text: str) -> str:
    """Return what a model said with escapes for what a terminal would obey. Line breaks stay."""
    return "\n".join(map(escaped, text.split("\n")))
