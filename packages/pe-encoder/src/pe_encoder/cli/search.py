"""``plm search``: the images of a folder that fit a text best, by embeddings that ``plm embed`` has written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pe_encoder.cli.options import say_unknown, text_model
from plm_core.cli.options import Device, Json
from plm_core.cli.table import show
from plm_core.errors import InputError
from plm_core.utils.arguments import DEVICE
from plm_core.utils.images import check_overwrites, picture_format


def search(
    embeddings: Annotated[
        Path, typer.Argument(help="File that plm embed has written with a model that has a text tower.")
    ],
    text: Annotated[str, typer.Argument(help='What to look for, such as "a red circle".')],
    top: Annotated[int, typer.Option("--top", min=1, help="Number of images.")] = 10,
    out: Annotated[
        Path | None, typer.Option("--out", help="Contact sheet of the images to write, such as found.png.")
    ] = None,
    device: Device = DEVICE,
    as_json: Json = False,
) -> None:
    """Find the images that fit a text best."""
    file_format = picture_format(out) if out else ""
    if not text.strip():
        raise InputError("the text is empty; words such as 'a red circle' are needed")
    from plm_core.embeddings import Embeddings

    table = Embeddings.load(embeddings)
    files = table.files
    if out:
        check_overwrites(out, files)
    model = text_model(table.model, device, "plm search")
    say_unknown(model, table.model, [text])
    from pe_encoder.searching import contact_sheet, nearest
    from plm_core.utils.files import atomic_path

    found = nearest(model, text, table.vectors, top)
    show([{"file": str(files[place]), "score": round(score, 4)} for place, score in found], as_json)
    if out:
        sheet = contact_sheet([(files[place], f"{score:.3f}") for place, score in found])
        with atomic_path(out) as part:
            sheet.save(part, format=file_format)
        gone = sum(not files[place].is_file() for place, _ in found)
        if gone:
            typer.echo(f"{gone} of the {len(found)} images are no longer there, and grey in the picture", err=True)
        typer.echo(f"picture: {out.resolve()}", err=True)
