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
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    top: Annotated[int, typer.Option("--top", min=1, help="Number of classes to show per image.")] = 5,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, max=1, help="Lowest score of an object that is shown.")
    ] = 0.5,
    transform: Transforms = None,
    batch_size: BatchSize = 8,
    num_workers: NumWorkers = 0,
    device: Device = "cpu",
    dtype: Dtype = "fp32",
    as_json: Json = False,
) -> None:
    """Predict the classes of images, or the objects in them."""
    from plm_core import prediction
    from plm_core.prediction.tables import rows_of
    from plm_core.utils.devices import pick_device
    from plm_core.utils.progress import track

    net = prediction.trained_model(model, transform or [], pick_device(device))
    failures: list[str] = []

    def report(error: Exception) -> None:
        failures.append(str(error))
        print(f"plm: error: {error}", file=sys.stderr)

    results = prediction.predict(
        net,
        images,
        top=top,
        threshold=threshold,
        batch_size=batch_size,
        num_workers=num_workers or 0,
        dtype=dtype,
        on_error=report,
    )
    show(rows_of(track(results, "images", len(images))), as_json)
    if failures:
        raise typer.Exit(2)
