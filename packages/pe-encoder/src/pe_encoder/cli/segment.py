"""``plm segment``: the parts of an image that agree with texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pe_encoder.cli.options import MICRO, Model, say_unknown, text_model
from plm_core.cli.options import Device, Json
from plm_core.cli.table import show
from plm_core.errors import InputError
from plm_core.utils.arguments import DEVICE
from plm_core.utils.endings import VIDEOS
from plm_core.utils.images import check_overwrites, open_image, picture_format


def segment(
    image: Annotated[Path, typer.Argument(help="Path of an image.")],
    texts: Annotated[list[str], typer.Argument(help='Two texts or more, such as "sky" "a temple" "trees".')],
    model: Model = MICRO,
    out: Annotated[Path, typer.Option("--out", help="Path of the picture to write.")] = Path("segments.png"),
    templates: Annotated[
        str, typer.Option("--templates", help="Templates to put the texts into, as for plm zeroshot.")
    ] = "plain",
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            min=1,
            help="Side in pixels to which the image is squashed, a multiple of the model's patch (default: the model's "
            "own size). A larger one gives finer regions.",
        ),
    ] = None,
    device: Device = DEVICE,
    as_json: Json = False,
) -> None:
    """Paint the parts of an image that agree with texts, and print the share of the area that each text has."""
    file_format = picture_format(out)
    if not all(text.strip() for text in texts):
        raise InputError("a text is empty; words such as 'sky' are needed")
    if len(texts) < 2:
        raise InputError(
            "one text is given, and two or more are needed: each part of the image gets the text that fits best, so "
            "name what else is there"
        )
    if image.is_dir() or image.suffix.lower() in VIDEOS:
        raise InputError(f"path {str(image)!r} is a {'folder' if image.is_dir() else 'video'}; one image is needed")
    check_overwrites(out, [image])
    picture = open_image(image)  # before the model is made, so that a wrong path fails at once

    import numpy as np

    from pe_encoder.dense import segment as regions_of
    from pe_encoder.dense import tower_of
    from pe_encoder.preprocessing import Preprocess
    from pe_encoder.zeroshot import embed_classes
    from plm_core.prediction.drawing import draw_regions
    from plm_core.utils.files import atomic_path

    net = text_model(model, device, "plm segment")
    preprocess = None if size is None else Preprocess(_checked(size, tower_of(net).patch_size))
    say_unknown(net, model, texts)
    regions = regions_of(net, picture, embed_classes(net, texts, templates, cache=True), preprocess)
    with atomic_path(out) as part:
        draw_regions(picture, regions, texts, absent=False).save(part, format=file_format)
    shares = (np.bincount(regions.ravel(), minlength=len(texts)) / regions.size).round(4).tolist()
    show([{"text": text, "share": share} for text, share in zip(texts, shares, strict=True)], as_json)
    typer.echo(f"picture: {out.resolve()}", err=True)


def _checked(size: int, patch: int) -> int:
    """Return the value of the option ``--size``, if it is a multiple of the model's patch."""
    near = [side for side in (size // patch * patch, -(-size // patch) * patch) if side]
    if size not in near:
        advice = " or ".join(map(str, near))
        raise InputError(f"--size {size}: {size} is not a multiple of the patch of {patch} pixels: resize to {advice}")
    return size
