"""``plm tome``: a picture of what Token Merging merges."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plm_core.cli.table import show
from plm_core.errors import InputError
from plm_core.utils.images import open_image


def paint(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    model: Annotated[str, typer.Option("--model", help="A model of the hub or of timm, as name or name.tag.")],
    out: Annotated[Path, typer.Option("--out", help="The picture to write.")] = Path("groups.png"),
    r: Annotated[
        str | None, typer.Option("--r", help="Tokens to merge in each block: 8, '(8, -1)', '[16, 8]'.  [default: 8]")
    ] = None,
    flops: Annotated[float | None, typer.Option("--flops", help="Instead: the share of the work to leave.")] = None,
    tokens: Annotated[
        float | None, typer.Option("--tokens", help="Instead: the share of the patches to leave.")
    ] = None,
    prop_attn: Annotated[
        bool, typer.Option("--prop-attn/--no-prop-attn", help="Tokens count by their size in attention.")
    ] = True,
    after: Annotated[
        list[int] | None, typer.Option("--after", help="After how many blocks to look; may be repeated.")
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained/--random", help="Trained weights, or random ones for a first look.")
    ] = True,
    scale: Annotated[int | None, typer.Option("--scale", min=1, help="Enlarge the picture so many times.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Paint the patches of an image that become one token."""
    from PIL import Image

    kind = Image.registered_extensions().get(out.suffix.lower())
    if kind not in Image.SAVE:
        raise InputError(f"--out {str(out)!r} has no ending of a picture's, such as .png")
    picture = open_image(image)  # before the model: a bad path should fail at once

    from plm_core.models import create_model
    from plm_core.transforms import apply, parse
    from plm_core.utils.files import atomic_path
    from tome.pictures import look, side_by_side

    chosen = {name: value for name, value in (("flops", flops), ("tokens", tokens)) if value is not None}
    if r is not None or not chosen:
        chosen |= parse(f"tome:r={'8' if r is None else r}")[1]
    net = apply(create_model(model, pretrained=pretrained).eval(), "tome", **{"prop_attn": prop_attn} | chosen)
    seen, traced = look(net, picture)
    painted = side_by_side(seen, traced, after, scale=scale)
    with atomic_path(out) as part:
        painted.save(part, format=kind)
    show(
        [
            {"after block": n, "tokens": left, "largest group": round(size.max().item())}
            for n, (left, size) in enumerate(zip(traced.tokens, traced.sizes, strict=True), 1)
        ],
        as_json,
    )
    typer.echo(f"picture: {out.resolve()}", err=True)
