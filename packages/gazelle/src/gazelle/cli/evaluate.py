"""``plm gaze-eval``: the published scores of a model on a dataset of gaze."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gazelle.cli.options import Release
from plm_core.cli.options import BatchSize, Device, Json, NumWorkers, SkipUnreadable
from plm_core.cli.table import show
from plm_core.utils.arguments import DEVICE


def evaluate(
    model: Annotated[str, typer.Argument(help="Name of a model of gaze, with or without tag, or folder of one.")],
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder of GazeFollow, VideoAttentionTarget or ChildPlay, JSON file of the original, or pickle of "
            "GOO-Real."
        ),
    ],
    weights: Release = None,
    split: Annotated[str, typer.Option("--split", help="Split of a folder.")] = "test",
    format: Annotated[
        str | None,
        typer.Option("--format", help="gazefollow, vat, childplay, goo or json (default: by the names of the files)."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the images for a file (default: the file's own).")
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option("--benchmark", help="gazefollow or vat, whose scores to compute (default: vat for clips)."),
    ] = None,
    batch_size: BatchSize = 32,
    num_workers: NumWorkers = 0,
    device: Device = DEVICE,
    skip_unreadable: SkipUnreadable = False,
    as_json: Json = False,
) -> None:
    """Compute the published scores of a model on a dataset of gaze.

    For photos they are those of GazeFollow: AUC, average L2 and minimum L2. For frames of clips they are those of
    VideoAttentionTarget: AUC, L2 and the average precision of in/out.
    """
    from gazelle.data.opening import open_gaze

    opened = open_gaze(data, split, format, images, skip_unreadable)  # before the model, so that bad data fail at once
    from gazelle import evaluation
    from gazelle.estimation import preprocess_of
    from gazelle.loading import load
    from gazelle.recipes import Looker

    net = load(model, weights, device).model
    scores = evaluation.evaluate(
        Looker(net).eval(),
        opened.annotations,
        preprocess_of(net),
        benchmark or opened.benchmark,
        batch_size,
        num_workers or 0,
    )
    rounded: dict[str, Any] = {evaluation.WORDS[name]: round(value, 4) for name, value in scores.items()}
    people = opened.annotations.people
    row = {"model": model, "data": data.name, "format": opened.format, "people": people, **rounded}
    show([row], as_json)
