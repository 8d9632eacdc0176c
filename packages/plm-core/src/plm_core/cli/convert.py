"""``plm convert``: weights of any known layout to safetensors of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from plm_core.cli.table import show


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A .safetensors, .bin, .pt or .pth file, a folder with model.safetensors, or hf-hub:org/name. "
            "Pickles are read with weights_only=True."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    to: Annotated[
        str,
        typer.Option(
            "--to", help="Layout to write, such as official, timm or transformers; 'native' is the model's own."
        ),
    ] = "native",
    layout: Annotated[
        str | None, typer.Option("--from", help="Layout of the source (default: detected from its names).")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Name of the model (default: detected from its number of parameters).")
    ] = None,
    weights: Annotated[
        Literal["ema", "model"] | None,
        typer.Option(
            "--weights",
            help="Weights to take from a training's checkpoint: 'ema' for their moving average, 'model' for themselves "
            "(default: the average if there is one).",
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", help="Key under which a checkpoint holds the weights (default: the usual ones)."),
    ] = None,
) -> None:
    """Convert weights of any known layout to safetensors of another. Pickles are read with weights_only=True."""
    from plm_core.tools.conversion import convert_file

    ema = None if weights is None else weights == "ema"
    result = convert_file(source, target, to=to, layout=layout, model=model, ema=ema, key=key)
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
