"""``plm evaluate``: the accuracy of a classifier on labelled images or videos."""

from __future__ import annotations

from typing import Annotated

import typer

from plm_core.cli.notes import say_packed
from plm_core.cli.options import (
    BatchSize,
    Device,
    Dtype,
    Fast,
    Json,
    NumWorkers,
    SkipUnreadable,
    Stride,
    Threads,
    Transforms,
)
from plm_core.cli.table import show
from plm_core.utils.arguments import DEVICE


def evaluate(
    model: Annotated[
        str, typer.Argument(help="Name of a model, with or without tag (see plm list --timm), or folder of one.")
    ],
    data: Annotated[
        str,
        typer.Argument(
            help="Images by class, or videos for a video model, as for plm train. Of data with splits, it is the one "
            "to judge a training on (val, test ...)."
        ),
    ],
    stride: Stride = None,
    transform: Transforms = None,
    batch_size: BatchSize = 64,
    num_workers: NumWorkers = 0,
    device: Device = DEVICE,
    dtype: Dtype = "fp32",
    fast: Fast = False,
    threads: Threads = None,
    skip_unreadable: SkipUnreadable = False,
    as_json: Json = False,
) -> None:
    """Compute the top-1 and top-5 accuracy of a classifier on labelled images or videos.

    Classes are matched by their names.
    """
    from plm_core import packing, prediction
    from plm_core.sources.timm import folder_of
    from plm_core.tools.folders import trained_on
    from plm_core.utils.devices import cpu_threads, pick_device

    where = pick_device(device)
    if fast:
        packing.check_fast(where, dtype)
    items = prediction.labelled_data(data, skip_unreadable)  # before the model, so that bad data fail at once
    with cpu_threads(threads):
        net = prediction.trained_model(model, transform or [], where, fast=fast)
        result = prediction.evaluate(
            net, items, batch_size=batch_size, num_workers=num_workers or 0, dtype=dtype, stride=stride
        )
    show([{"metric": name, "score": round(score, 4)} for name, score in result.scores.items()], as_json)
    say_packed(net, fast)
    typer.echo(f"{result.data}; the model has {result.num_classes} classes", err=True)
    folder = folder_of(model)
    if folder and (count := trained_on(folder, items)):
        typer.echo(
            f"note: the model was trained on {count} of these {len(items)} {items.kind}, as its training.json says, so "
            "its accuracy on others may be lower",
            err=True,
        )
