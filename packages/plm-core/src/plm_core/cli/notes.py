"""Lines on stderr that several commands print beside their results."""

from __future__ import annotations

from typing import Any

import typer


def say_packed(model: Any, fast: bool) -> None:
    """Say how many layers of a model that was to be fast are packed. Why none can be is said when it is loaded."""
    from plm_core import packing
    from plm_core.transforms import applied_to

    if fast and packing.NAME in applied_to(model):
        typer.echo(f"fast: {packing.report(model)}", err=True)
