"""``plm paint-tokens``: a picture of the patches that Token Merging turns into one token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from plm_core.cli.options import Json, Size
from plm_core.cli.table import show
from plm_core.utils.images import open_image, picture_format


def paint_tokens(
    image: Annotated[Path, typer.Argument(help="Path of an image.")],
    model: Annotated[str, typer.Option("--model", help="Name of a model from plm list or timm, with or without .TAG.")],
    out: Annotated[Path, typer.Option("--out", help="Path of the picture to write.")] = Path("groups.png"),
    r: Annotated[
        str | None,
        typer.Option(
            "--r",
            help="Tokens to merge in each block: a number, '(mean, inflection)', or a list with one number per block "
            "(default: 8).",
        ),
    ] = None,
    flops: Annotated[
        float | None, typer.Option("--flops", help="Share of the multiply-adds to keep, from 0 to 1, instead of --r.")
    ] = None,
    tokens: Annotated[
        float | None, typer.Option("--tokens", help="Share of the patch tokens to keep, from 0 to 1, instead of --r.")
    ] = None,
    prop_attn: Annotated[
        bool, typer.Option("--prop-attn/--no-prop-attn", help="Let attention count a token once for each patch in it.")
    ] = True,
    positions: Annotated[
        Literal["destination", "mean"],
        typer.Option(
            "--positions",
            help="Rotary position of a merged token: that of the token it merged into, or the mean over its patches.",
        ),
    ] = "destination",
    after: Annotated[
        list[int] | None,
        typer.Option("--after", help="Show the groups after this many blocks. May be repeated."),
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained/--random", help="Use the trained weights, or random ones to try it out.")
    ] = True,
    size: Size = None,
    scale: Annotated[int | None, typer.Option("--scale", min=1, help="Factor by which to enlarge the picture.")] = None,
    as_json: Json = False,
) -> None:
    """Paint the groups of patches of an image that become one token."""
    file_format = picture_format(out)
    picture = open_image(image)  # before the model is made, so that a wrong path fails at once

    from plm_core.models import create_model
    from plm_core.transforms import apply
    from plm_core.utils.files import atomic_path
    from plm_core.utils.text import literal
    from tome.pictures import run_and_trace, side_by_side

    options: dict[str, Any] = {
        name: value for name, value in (("flops", flops), ("tokens", tokens)) if value is not None
    }
    if r is not None or not options:
        options["r"] = 8 if r is None else literal(r)
    net = create_model(model, pretrained=pretrained, **({} if size is None else {"img_size": size})).eval()
    net = apply(net, "tome", prop_attn=prop_attn, positions=positions, **options)
    pixels, trace = run_and_trace(net, picture)
    painted = side_by_side(pixels, trace, after, scale=scale)
    with atomic_path(out) as part:
        painted.save(part, format=file_format)
    show(
        [
            {"after block": n, "tokens": left, "largest group": round(size.max().item())}
            for n, (left, size) in enumerate(zip(trace.tokens, trace.sizes, strict=True), 1)
        ],
        as_json,
    )
    typer.echo(f"picture: {out.resolve()}", err=True)
