"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Transforms = Annotated[list[str] | None, typer.Option("--transform", help="As tome:r=13; may be repeated.")]
