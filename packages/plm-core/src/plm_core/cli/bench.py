"""``plm bench``: how fast a model is, and how fast with transforms."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated, Any

import typer

from plm_core.cli.options import Json, Transforms
from plm_core.cli.table import show


def bench(
    model: Annotated[str, typer.Argument(help="A model of the hub or of timm; its weights are random.")],
    transform: Transforms = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images at once.")] = 64,
    size: Annotated[int | None, typer.Option("--size", min=1, help="Side of the images; the model's own.")] = None,
    device: Annotated[str, typer.Option("--device", help="As torch names it: cpu, cuda, cuda:1, mps.")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="fp32, or bf16 and fp16 by autocast.")] = "fp32",
    compiled: Annotated[bool, typer.Option("--compile", help="Run through torch.compile.")] = False,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Of each; the first quarter does not count.")] = 40,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Of the CPU; torch's own.")] = None,
    as_json: Json = False,
) -> None:
    """Time a model with and without transforms, in turn in one run."""
    import torch

    from plm_core.tools.bench import compare, prepare

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        net, x = prepare(model, batch, device, size)
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
        f"{torch.__version__}; medians of {runs} runs of each in turn, the first quarter not counted; memory is what "
        "torch allocated at most, weights and input included",
        err=True,
    )
    show(rows, as_json)


def _short(tokens: tuple[int, ...]) -> str:
    """(197, 197, 189) -> ``197 x2, 189``."""
    counts = [(tokens, len(list(same))) for tokens, same in groupby(tokens)]
    return ", ".join(f"{tokens} x{count}" if count > 1 else str(tokens) for tokens, count in counts)
