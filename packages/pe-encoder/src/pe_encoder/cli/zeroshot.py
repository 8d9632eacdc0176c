"""``plm zeroshot``: which of several texts fits an image or a video."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pe_encoder.cli.options import MICRO, Model, say_unknown, text_model
from plm_core.cli.options import BatchSize, Device, Json, NumWorkers
from plm_core.cli.table import show
from plm_core.errors import InputError
from plm_core.utils.arguments import DEVICE


def zeroshot(
    path: Annotated[Path, typer.Argument(help="An image, a video, or a folder with all folders below.")],
    texts: Annotated[list[str], typer.Argument(help='Texts to choose from, such as "a cat" "a dog".')],
    model: Model = MICRO,
    templates: Annotated[
        str,
        typer.Option(
            "--templates",
            help="Templates to put the texts into: plain (the text as it is), photo, imagenet, imagenet-simple, "
            "kinetics, or a text with {} for the name.",
        ),
    ] = "plain",
    top: Annotated[int, typer.Option("--top", min=1, help="Number of texts per image or video.")] = 5,
    frames: Annotated[int, typer.Option("--frames", min=1, help="Frames of a video that are averaged.")] = 8,
    center: Annotated[
        bool, typer.Option("--center", help="Cut out the middle of an image instead of squashing it to a square.")
    ] = False,
    batch_size: BatchSize = 64,
    num_workers: NumWorkers = 0,
    device: Device = DEVICE,
    as_json: Json = False,
) -> None:
    """Choose the text that fits an image or a video best, and print probabilities."""
    from plm_core.prediction.files import Kind, find_files

    for text in texts:
        if not text.strip():
            raise InputError("a text is empty; words such as 'a cat' are needed")
    files = find_files([path])  # before the model, so that a bad path fails at once
    videos = [file.path for file in files if file.kind is Kind.VIDEO]
    images = [file.path for file in files if file.kind is Kind.IMAGE]
    if not videos and not images:
        raise InputError(f"{str(path)!r} is no image and no video")
    from pe_encoder.media import embed_images, embed_videos
    from pe_encoder.zeroshot import embed_classes
    from plm_core.utils.progress import progress_bar

    net = text_model(model, device, "zero-shot classification")
    say_unknown(net, model, texts)
    weight = embed_classes(net, texts, templates, cache=True).cpu()
    mode = "center" if center else "squash"
    rows: list[dict[str, Any]] = []
    errors: list[str] = []
    with progress_bar("files", len(images) + len(videos)) as advance:
        parts = [
            (images, embed_images(net, images, mode=mode, batch_size=batch_size, num_workers=num_workers or 0,
                                  advance=advance)),
            (videos, embed_videos(net, videos, frames=frames, mode=mode, advance=advance)),
        ]  # fmt: skip
    for paths, (vectors, unreadable) in parts:
        readable = [file for place, file in enumerate(paths) if place not in unreadable]
        rows += _rows(readable, _probabilities(net, vectors, weight), texts, top)
        errors += unreadable.values()
    if as_json:
        show(rows, as_json=True)
    else:
        show(_table(rows, several=len(files) > 1))
    for error in errors:
        print(f"plm: error: {error}", file=sys.stderr)
    if errors:
        raise typer.Exit(2)


def _probabilities(model: Any, vectors: Any, weight: Any) -> Any:
    """Return the probabilities of the texts, [N, C]: cosines times the factor that the model has learned."""
    from torch.nn.functional import normalize

    return (model.logit_scale.exp().item() * normalize(vectors, dim=-1) @ weight).softmax(-1)


def _rows(files: list[Path], probabilities: Any, texts: list[str], top: int) -> list[dict[str, Any]]:
    rows = []
    for file, row in zip(files, probabilities, strict=True):
        best = row.topk(min(top, len(texts)))
        results = [
            {"text": texts[place], "probability": round(value, 4)}
            for place, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        rows.append({"file": str(file), "texts": results})
    return rows


def _table(rows: list[dict[str, Any]], several: bool) -> list[dict[str, Any]]:
    return [({"file": row["file"]} if several else {}) | result for row in rows for result in row["texts"]]
