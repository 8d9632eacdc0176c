"""``plm bench``: the speed of a model with and without transforms."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated, Any

import typer

from plm_core.cli.options import BatchSize, Device, Dtype, Json, Transforms
from plm_core.cli.table import show


def bench(
    model: Annotated[str, typer.Argument(help="Name of a model (see plm list --timm). Its weights are random.")],
    transform: Transforms = None,
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

    from plm_core.tools.bench import compare, prepare

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        net, x = prepare(model, batch_size, device, size)
        timings = compare(net, transform or [], x, runs, dtype, compiled)
        used = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    rows: list[dict[str, Any]] = [
        {
            "model": t.name,
            "images/s": round(t.images_per_second, 1),
            "ms/batch": round(t.milliseconds, 2),
            "speed-up": round(t.speedup, 3),
            "peak memory, MB": t.memory and round(t.memory / 1e6, 1),
            "tokens after each block": list(t.tokens or ()) if as_json else _short(t.tokens or ()),
        }
        for t in timings
    ]
    where = torch.cuda.get_device_name(x.device) if x.device.type == "cuda" else f"{x.device}, {used} threads"
    typer.echo(
        f"{model}, {' x '.join(map(str, x.shape))}, {dtype}{', compiled' if compiled else ''}, {where}, torch "
        f"{torch.__version__}; medians of {runs} runs per contender, taken in turns, without the first quarter; memory "
        "is the peak of what torch allocated, including weights and input",
        err=True,
    )
    show(rows, as_json)


def _short(tokens: tuple[int, ...]) -> str:
    """Shorten repeated counts: (197, 197, 189) -> ``197 x2, 189``."""
    counts = [(tokens, len(list(same))) for tokens, same in groupby(tokens)]
    return ", ".join(f"{tokens} x{count}" if count > 1 else str(tokens) for tokens, count in counts)
