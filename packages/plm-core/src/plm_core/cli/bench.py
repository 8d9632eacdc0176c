"""``plm bench``: the speed of a model with and without transforms."""

from __future__ import annotations

from itertools import groupby, pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from plm_core.cli.options import BatchSize, Device, Dtype, Json, Transforms
from plm_core.cli.table import show


def bench(
    model: Annotated[str, typer.Argument(help="Name of a model (see plm list --timm).")],
    transform: Transforms = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            "--compare",
            help="A transform to time on its own against the plain model, written as for --transform, whose transforms "
            "are stacked. May be repeated.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Folder of images on which to compare the answers with the plain model's."),
    ] = None,
    pretrained: Annotated[
        bool | None,
        typer.Option("--pretrained/--random", help="Weights of the model (default: random ones, unless --images)."),
    ] = None,
    batch_size: BatchSize = 64,
    size: Annotated[
        int | None, typer.Option("--size", min=1, help="Side of the images in pixels (default: the model's own).")
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = "fp32",
    compiled: Annotated[bool, typer.Option("--compile", help="Run the model through torch.compile.")] = False,
    runs: Annotated[
        int,
        typer.Option("--runs", min=1, help="Timed runs with and without transforms; the first quarter is discarded."),
    ] = 40,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads (default: torch's setting).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Time a model with and without transforms, in turns within one run."""
    import torch

    from plm_core.tools.agreement import image_batches
    from plm_core.tools.bench import compare as time_all
    from plm_core.tools.bench import prepare

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        weights = images is not None if pretrained is None else pretrained
        net, x = prepare(model, batch_size, device, size, weights)
        stacks = [*([transform] if transform else []), *([one] for one in compare or [])]
        batches = image_batches(net, images, batch_size) if images else ()
        timings = time_all(net, stacks, x, runs, dtype, compiled, batches)
        used = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    where = torch.cuda.get_device_name(x.device) if x.device.type == "cuda" else f"{x.device}, {used} threads"
    typer.echo(
        f"{model}, {' x '.join(map(str, x.shape))}, {dtype}{', compiled' if compiled else ''}, {where}, torch "
        f"{torch.__version__}; medians of {runs} runs per contender, taken in turns, without the first quarter. "
        "speed-up: median of the ratios within each round, not the ratio of medians; range: half of them lie in it; "
        "peak memory: what torch allocated, including weights and input",
        err=True,
    )
    show([_row(timing, as_json) for timing in timings], as_json)


def _row(timing: Any, as_json: bool) -> dict[str, Any]:
    low, high = (round(value, 3) for value in timing.spread)
    row: dict[str, Any] = {
        "model": timing.name,
        "images/s": round(timing.images_per_second, 1),
        "ms/batch": round(timing.milliseconds, 2),
        "speed-up": round(timing.speedup, 3),
        "range": [low, high] if as_json else f"{low:.3g} to {high:.3g}",
        "peak memory, MB": timing.memory and round(timing.memory / 1e6, 1),
        "tokens after each block": list(timing.tokens or ()) if as_json else short_counts(timing.tokens or ()),
    }
    if timing.agreement:
        top1 = timing.agreement.same_top1
        row |= {"cosine": round(timing.agreement.cosine, 4), "same top-1": None if top1 is None else round(top1, 4)}
    return row


def short_counts(tokens: tuple[int, ...]) -> str:
    """Put the counts into words: ``189 to 101, 8 fewer each`` for steps of one size, else ``197 x2, 189``."""
    steps = {a - b for a, b in pairwise(tokens)}
    if len(tokens) > 2 and len(steps) == 1 and steps != {0}:
        return f"{tokens[0]} to {tokens[-1]}, {steps.pop()} fewer each"
    counts = [(tokens, len(list(same))) for tokens, same in groupby(tokens)]
    return ", ".join(f"{tokens} x{count}" if count > 1 else str(tokens) for tokens, count in counts)
