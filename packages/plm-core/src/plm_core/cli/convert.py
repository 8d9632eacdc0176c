"""``plm convert``: weights of any known layout into safetensors of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plm_core.cli.table import show


def convert(
    source: Annotated[str, typer.Argument(help=".safetensors, .bin, .pt, .pth, a folder, or hf-hub:org/name.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    to: Annotated[str, typer.Option("--to", help="Layout to write; 'native' is the model's own.")] = "native",
    layout: Annotated[str | None, typer.Option("--from", help="Layout of the source; recognised if not given.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The model; found by parameter count if not given.")
    ] = None,
) -> None:
    """Turn weights of any known layout into safetensors of another. Pickles are read with weights_only=True."""
    from plm_core.tools.conversion import convert_file

    result = convert_file(source, target, to=to, layout=layout, model=model)
    show(
        [
            {
                "model": result.model,
                "from": result.source_layout,
                "to": to,
                "tensors": result.tensors,
                "file": str(target),
            }
        ]
    )
