"""The command ``parc rank``, which is also ``plm rank``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parc.cli import shared
from parc.cli.shared import (
    INTERRUPTED,
    Cached,
    Data,
    KeepGoing,
    Plot,
    Pretrained,
    check_files,
    cpu_threads,
    end,
    print_json,
    save,
    say_interrupted,
    split_list,
    where,
)
from parc.next_steps import after_ranking
from parc.ranking.settings import Settings
from plm_core.cli.light import RayCommand
from plm_core.cli.options import BatchSize, Device, Dtype, Fast, Json, NumWorkers, Ray, SkipUnreadable, Threads
from plm_core.cli.table import show
from plm_core.errors import InputError

if TYPE_CHECKING:
    from parc.ranking.results import Ranking


app = typer.Typer(add_completion=False)


@app.command(name="rank", cls=RayCommand, help="Rank models by how well they suit a dataset.")
def _command(
    dataset: Data,
    models: Annotated[list[str], shared.models("rank")],
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="Methods to rank by: names of scores or facts, separated by commas, each with its options, as in "
            "parc,knn:k=5,metric=cosine. The first one orders the models. May be repeated. (default: parc,logme,knn)",
        ),
    ] = None,
    budget: Annotated[
        int, typer.Option("--budget", min=2, help="Largest number of images that each model sees.")
    ] = Settings.budget,
    runs: Annotated[
        int, typer.Option("--runs", min=1, help="Number of times the images are drawn; scores are averaged.")
    ] = Settings.runs,
    pca: Annotated[
        str,
        typer.Option(
            "--pca",
            help="Number of dimensions to reduce features to. none: no reduction. compat:32: the recipe of the "
            "published code, which is less exact.",
        ),
    ] = str(Settings.pca),
    bootstraps: Annotated[
        int, typer.Option("--bootstraps", min=0, help="Number of half-samples for the intervals; 0 for no intervals.")
    ] = Settings.bootstraps,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            help="Name of a model that was trained on the dataset, written as in --models. Used by rsa and dds.",
        ),
    ] = None,
    imagenet_csv: Annotated[
        Path | None,
        typer.Option("--imagenet-csv", help="Path of timm's results-imagenet.csv, for the method imagenet-top1."),
    ] = None,
    pretrained: Pretrained = True,
    device: Device = Settings.device,
    dtype: Dtype = Settings.dtype,
    fast: Fast = Settings.fast,
    batch_size: BatchSize = Settings.batch_size,
    num_workers: NumWorkers = None,
    ray: Ray = None,
    threads: Threads = None,
    cache: Cached = True,
    skip_unreadable: SkipUnreadable = False,
    keep_going: KeepGoing = False,
    out: Annotated[list[Path] | None, shared.out("ranking")] = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Rank models by how well they suit a dataset."""
    from parc.ranking import Interrupted, rank_models

    files = check_files(out, plot)
    if threads and ray:
        raise InputError("--threads is for this process; a Ray worker has one thread")
    settings = Settings(
        methods=tuple(split_list(method or Settings.methods, "method")),
        budget=budget,
        runs=runs,
        pca=_parse_pca(pca),
        bootstraps=bootstraps,
        reference=reference,
        imagenet_csv=imagenet_csv,
        pretrained=pretrained,
        device=device,
        dtype=dtype,
        fast=fast,
        batch_size=batch_size,
        num_workers=num_workers,
        ray=ray,
        cache=cache,
        skip_unreadable=skip_unreadable,
    )
    try:
        with cpu_threads(threads):
            ranking = rank_models(dataset, split_list(models, "models"), settings)
    except Interrupted as e:
        _print(e.result, as_json)
        say_interrupted(e, files)
        raise typer.Exit(INTERRUPTED) from None
    _print(ranking, as_json)
    save(ranking, files)
    if steps := after_ranking(dataset, ranking):
        typer.echo(steps, err=True)
    end(ranking, "scored", keep_going)


def _print(ranking: Ranking, as_json: bool) -> None:
    if as_json:
        print_json(ranking.as_dict())
        return
    about = ranking.about
    typer.echo(
        f"{about['source']}: {about['images']} of {about['of']} {about['kind']}, {about['classes']} classes, "
        f"{about['runs']} probe{'s' * (about['runs'] > 1)}, pca {about['pca']}, {where(about, ranking.rows)}; "
        f"higher scores are better, brackets hold 90 % intervals",
        err=True,
    )
    show(ranking.table())


def _parse_pca(text: str) -> int | str | None:
    if text.lower() == "none":
        return None
    return int(text) if text.isdigit() else text  # Settings checks whether the text is a recipe
