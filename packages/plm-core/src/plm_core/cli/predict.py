"""``plm predict``: the classes of images, or the objects in them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from plm_core.cli.options import BatchSize, Device, Dtype, Json, NumWorkers, Transforms
from plm_core.cli.table import show


def predict(
    model: Annotated[str, typer.Argument(help="Name of a model, with or without tag (see plm list --timm).")],
    paths: Annotated[
        list[Path],
        typer.Argument(help="Files, and folders with all folders below: images, or videos for a video model."),
    ],
    top: Annotated[int, typer.Option("--top", min=1, help="Number of classes to show per image.")] = 5,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, max=1, help="Lowest score of an object that is shown.")
    ] = 0.5,
    transform: Transforms = None,
    batch_size: BatchSize = 8,
    num_workers: NumWorkers = 0,
    device: Device = "cpu",
    dtype: Dtype = "fp32",
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out",
            help="File to write: .csv or .json, or for a detector a picture (.png, .jpg, .webp) with its objects, or a "
            "folder for the pictures of several images. May be repeated.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict the classes of images, or the objects in them."""
    from plm_core import prediction
    from plm_core.prediction.outputs import Outputs, check_outputs
    from plm_core.prediction.tables import json_of, rows_of
    from plm_core.utils.devices import pick_device
    from plm_core.utils.progress import track

    found = prediction.find_files(paths)  # before the model, so that a bad path fails at once
    check_outputs(out or [])
    net = prediction.trained_model(model, transform or [], pick_device(device))
    task = prediction.task_of(net)
    kind = prediction.KINDS[task]
    files = prediction.select_files(found, kind, model)
    outputs = Outputs(out or [], task, files)
    failures: list[str] = []

    def report(error: Exception) -> None:
        failures.append(str(error))
        print(f"plm: error: {error}", file=sys.stderr)

    results = prediction.predict(
        net,
        [file.path for file in files],
        top=top,
        threshold=threshold,
        batch_size=batch_size,
        num_workers=num_workers or 0,
        dtype=dtype,
        on_error=report,
    )
    for result in track(results, f"{kind}s", len(files)):
        outputs.add(result)
    outputs.close()
    show(json_of(outputs.results) if as_json else rows_of(outputs.results), as_json)
    for path in out or []:
        typer.echo(f"wrote {path.resolve()}", err=True)
    if empty := sum(not result.found for result in outputs.results):
        typer.echo(f"{empty} of {len(files)} images: no object with a score of at least {threshold:g}", err=True)
    if failures:
        if len(files) > 1:
            print(f"plm: error: {len(failures)} of {len(files)} files could not be read", file=sys.stderr)
        raise typer.Exit(2)
