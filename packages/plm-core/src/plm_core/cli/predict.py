"""``plm predict``: the classes of images and videos, or the objects in images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from plm_core.cli.notes import say_packed
from plm_core.cli.options import BatchSize, Device, Dtype, Fast, Json, NumWorkers, Stride, Threads, Transforms
from plm_core.cli.table import show
from plm_core.utils.arguments import DEVICE


def predict(
    model: Annotated[
        str, typer.Argument(help="Name of a model, with or without tag (see plm list --timm), or folder of one.")
    ],
    paths: Annotated[
        list[Path],
        typer.Argument(help="Files, and folders with all folders below: images, or videos for a video model."),
    ],
    top: Annotated[
        int | None,
        typer.Option("--top", min=1, help="Number of classes per image, or per window of a video (default: 5)."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", min=0, max=1, help="For a detector: lowest score of an object (default: 0.5)."),
    ] = None,
    stride: Stride = None,
    transform: Transforms = None,
    batch_size: BatchSize = 8,
    num_workers: NumWorkers = 0,
    device: Device = DEVICE,
    dtype: Dtype = "fp32",
    fast: Fast = False,
    threads: Threads = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out",
            help="File to write: .csv or .json; for a detector or a video model also a picture (.png, .jpg, .webp) of "
            "the objects or of the classes over time, or a folder for the pictures of several files. May be repeated.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict the classes of images or videos, or the objects in images."""
    from plm_core import packing, prediction
    from plm_core.prediction.outputs import Outputs, check_outputs
    from plm_core.prediction.tables import json_of, short_rows
    from plm_core.utils.devices import cpu_threads, pick_device
    from plm_core.utils.progress import progress_bar

    found = prediction.find_files(paths)  # before the model, so that a bad path fails at once
    check_outputs(out or [])
    where = pick_device(device)
    if fast:
        packing.check_fast(where, dtype)
    net = prediction.trained_model(model, transform or [], where, fast=fast)
    task = prediction.task_of(net)
    kind = prediction.KINDS[task]
    files = prediction.select_files(found, kind, model)
    outputs = Outputs(out or [], task, files)
    failures: list[str] = []

    def report(error: Exception) -> None:
        failures.append(str(error))
        print(f"plm: error: {error}", file=sys.stderr)

    with cpu_threads(threads), progress_bar(f"{kind}s", len(files)) as advance:
        results = prediction.predict(
            net,
            [file.path for file in files],
            top=top,
            threshold=threshold,
            batch_size=batch_size,
            num_workers=num_workers or 0,
            dtype=dtype,
            stride=stride,
            on_error=report,
            advance=advance,
        )
        for result in results:
            outputs.add(result)
    outputs.close()
    say_packed(net, fast)
    show(json_of(outputs.results) if as_json else short_rows(outputs.results), as_json)
    for path in out or []:
        typer.echo(f"wrote {path.resolve()}", err=True)
    least = prediction.THRESHOLD if threshold is None else threshold
    empty = [r for r in outputs.results if isinstance(r, prediction.ImageDetections) and not r.detections]
    if empty:
        typer.echo(
            f"{len(empty)} of {len(outputs.results)} images: no object with a score of at least {least:g}", err=True
        )
    if failures:
        if len(files) > 1:
            print(f"plm: error: {len(failures)} of {len(files)} files could not be read", file=sys.stderr)
        raise typer.Exit(2)
