"""``plm bench``: the speed of a model with and without transforms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plm_core.cli.options import BatchSize, Device, Dtype, Json, Size, Transforms
from plm_core.cli.table import show
from plm_core.utils.arguments import DEVICE, split_random

if TYPE_CHECKING:
    from plm_core.tools.bench import Timing


def bench(
    model: Annotated[
        str,
        typer.Argument(
            help="Name of a model (see plm list --timm). The prefix random: stands for random weights. diffusers:PATH "
            "and diffusers:org/name stand for a UNet of diffusers, whose images are latents."
        ),
    ],
    transform: Transforms = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            "--compare",
            help="A transform to time on its own against the plain model, written as for --transform, or a stack of "
            "them, as in packed+tome:r=13. May be repeated.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            exists=True,
            file_okay=False,
            help="Folder of images on which to compare the answers with the plain model's.",
        ),
    ] = None,
    pretrained: Annotated[
        bool | None,
        typer.Option("--pretrained/--random", help="Weights of the model (default: random ones, unless --images)."),
    ] = None,
    batch_size: BatchSize = 64,
    size: Size = None,
    device: Device = DEVICE,
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

    from plm_core.errors import InputError, NoWeights, WeightsError
    from plm_core.tools.agreement import image_batches
    from plm_core.tools.bench import compare as time_all
    from plm_core.tools.bench import is_denoiser, prepare
    from plm_core.transforms import split_stack

    name, pretrained = split_random(model, pretrained)
    if images is not None and is_denoiser(name):
        raise InputError("--images compares embeddings and classes, and a UNet of diffusers has neither")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        weights = images is not None if pretrained is None else pretrained
        try:
            net, x = prepare(name, batch_size, device, size, weights)
        except (NoWeights, WeightsError) as e:
            if pretrained or not weights:
                raise
            raise type(e)(f"{e}; --random does without") from e
        stacks = [*([transform] if transform else []), *map(split_stack, compare or [])]
        batches = image_batches(net, images, batch_size) if images else ()
        timings = time_all(net, stacks, x, runs, dtype, compiled, batches)
        used = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    where = torch.cuda.get_device_name(x.device) if x.device.type == "cuda" else f"{x.device}, {used} threads"
    typer.echo(
        f"{model}, {' x '.join(map(str, x.shape))}, {dtype}{', compiled' if compiled else ''}, {where}, torch "
        f"{torch.__version__}; medians of {runs} runs per contender, taken in turns, without the first quarter. "
        + ("speed-up: median of the ratios within each round, not the ratio of medians; " if len(timings) > 1 else "")
        + "range: half of the values lie in it; peak memory: what torch allocated, including weights and input"
        + (f"; on {count} images, compared with the plain model" if (count := _images(timings)) else ""),
        err=True,
    )
    show([_row(timing, as_json, alone=len(timings) == 1) for timing in timings], as_json)
    for note in _notes(timings, random=images is not None and not weights):
        typer.echo(f"note: {note}", err=True)


def _images(timings: Sequence[Timing]) -> int:
    return timings[0].agreement.images if timings[0].agreement else 0


def _notes(timings: Sequence[Timing], random: bool) -> Iterator[str]:
    """Yield what makes the numbers less certain than they look."""
    plain = timings[0]
    for timing in timings:
        if timing.packed:
            yield f"{timing.name}: {timing.packed}"
    low, high = plain.between
    if plain.busy:
        yield (
            f"half of the batches of the plain model took {low:.3g} to {high:.3g} ms, so something else keeps the "
            "machine busy: trust the speed-ups more than the speeds, or repeat with more --runs"
        )
    if random:
        yield "the weights are random, so how alike the answers are says little about the trained model"


def _row(timing: Timing, as_json: bool, alone: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": timing.name,
        "images/s": round(timing.images_per_second, 1),
        "ms/batch": round(timing.milliseconds, 2),
        "ms range": _range(timing.between, as_json),
    }
    if not alone:
        row |= {"speed-up": round(timing.speedup, 3), "speed-up range": _range(timing.spread, as_json)}
    row |= {
        "peak memory, MB": timing.memory and round(timing.memory / 1e6, 1),
        "tokens after each block": list(timing.tokens or ()) if as_json else short_counts(timing.tokens or ()),
    }
    if agreement := timing.agreement:
        top1 = agreement.same_top1
        row |= {
            "cosine": round(agreement.cosine, 4),
            "lowest": round(agreement.lowest, 4),
            "same top-1": None if top1 is None else round(top1, 4),
        }
    return row


def _range(quartiles: tuple[float, float], as_json: bool) -> list[float] | str:
    low, high = (round(value, 3) for value in quartiles)
    return [low, high] if as_json else f"{low:.3g} to {high:.3g}"


def short_counts(tokens: tuple[int, ...]) -> str:
    """Put the counts into words: ``189 to 101, 8 fewer each`` for steps of one size, else ``197 x2, 189``."""
    steps = {a - b for a, b in pairwise(tokens)}
    if len(tokens) > 2 and len(steps) == 1 and steps != {0}:
        return f"{tokens[0]} to {tokens[-1]}, {steps.pop()} fewer each"
    counts = [(tokens, len(list(same))) for tokens, same in groupby(tokens)]
    return ", ".join(f"{tokens} x{count}" if count > 1 else str(tokens) for tokens, count in counts)
