"""``plm paint-hydra``: a picture of the patches that speak for a class in the last Hydra layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plm_core.cli.options import Json, Size
from plm_core.cli.table import show
from plm_core.errors import InputError
from plm_core.utils.images import open_image, picture_format


def paint_hydra(
    image: Annotated[Path, typer.Argument(help="Path of an image.")],
    model: Annotated[
        str, typer.Option("--model", help="Name of a classifier from plm list or timm, with or without .TAG.")
    ] = "hydra_micro_shapes",
    out: Annotated[Path, typer.Option("--out", help="Path of the picture to write.")] = Path("attention.png"),
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            help="Blocks in which Hydra replaces the softmax, of a model without Hydra: a number of last blocks, a "
            "list of indices, or all.",
        ),
    ] = None,
    number: Annotated[
        int | None, typer.Option("--class", min=0, help="Number of the class (default: the predicted one).")
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained/--random", help="Use the trained weights, or random ones to try it out.")
    ] = True,
    size: Size = None,
    as_json: Json = False,
) -> None:
    """Paint which patches of an image speak for a class in the last Hydra layer."""
    file_format = picture_format(out)
    picture = open_image(image)  # before the model is made, so that a wrong path fails at once

    from hydra_attn.api import altered_blocks
    from hydra_attn.pictures import attention
    from plm_core.models import class_names, create_model
    from plm_core.transforms import apply
    from plm_core.utils.files import atomic_path
    from plm_core.utils.text import literal

    net = create_model(model, pretrained=pretrained, **({} if size is None else {"img_size": size})).eval()
    has = bool(altered_blocks(net))
    if layers is None and not has:
        raise InputError(f"model {model!r} has no Hydra: say with --layers in which blocks it replaces the softmax")
    if layers is not None and has:
        raise InputError(f"model {model!r} has Hydra already: leave out --layers")
    if layers is not None:
        net = apply(net, "hydra", layers=literal(layers))
    painted, shown = attention(net, picture, number)
    with atomic_path(out) as part:
        painted.save(part, format=file_format)
    names = next(iter(class_names(net)), [])
    if pretrained and len(names) > shown["class"]:
        shown["name"] = names[shown["class"]]
    show([shown], as_json)
    typer.echo(f"picture: {out.resolve()}", err=True)
