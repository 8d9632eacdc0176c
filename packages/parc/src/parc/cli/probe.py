"""The command ``parc probe``, which is also ``plm probe``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
from parc.next_steps import after_probing
from parc.probing.settings import ProbeSettings
from plm_core.cli.light import LightCommand
from plm_core.cli.options import BatchSize, Device, Dtype, Fast, Json, NumWorkers, Seed, SkipUnreadable, Threads
from plm_core.cli.table import show
from plm_core.errors import InputError

if TYPE_CHECKING:
    from parc.probing import Probing

app = typer.Typer(add_completion=False)


@app.command(name="probe", cls=LightCommand, help="Judge models by a linear or k-NN classifier on their features.")
def _command(
    dataset: Data,
    models: Annotated[list[str], shared.models("probe")],
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="Classifier: linear (logistic regression whose regularisation is chosen by an inner validation; or "
            "linear:C=0.1) or knn (knn:k=5,metric=cosine).",
        ),
    ] = ProbeSettings.method,
    folds: Annotated[
        int, typer.Option("--folds", min=2, help="Number of folds of the cross-validation.")
    ] = ProbeSettings.folds,
    shots: Annotated[
        str,
        typer.Option(
            "--shots",
            help="Images per class for a few-shot curve, such as 1,2,5,10, or auto for 1,2,5,10,20,50,100 as far as "
            "there are so many. All images are always tried too. (default: none; auto with --plot)",
        ),
    ] = "",
    budget: Annotated[
        int,
        typer.Option("--budget", min=2, help="Largest number of images that each model sees of a split."),
    ] = ProbeSettings.budget,
    seed: Seed = ProbeSettings.seed,
    pretrained: Pretrained = True,
    device: Device = ProbeSettings.device,
    dtype: Dtype = ProbeSettings.dtype,
    fast: Fast = ProbeSettings.fast,
    batch_size: BatchSize = ProbeSettings.batch_size,
    num_workers: NumWorkers = None,
    threads: Threads = None,
    cache: Cached = True,
    skip_unreadable: SkipUnreadable = False,
    keep_going: KeepGoing = False,
    out: Annotated[list[Path] | None, shared.out("accuracies")] = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Judge models by a linear or k-NN classifier on their features."""
    from parc import probing
    from parc.interrupted import Interrupted

    files = check_files(out, plot)
    settings = ProbeSettings(
        method=method,
        folds=folds,
        shots=_parse_shots(shots or ("auto" if plot else "all")),
        budget=budget,
        seed=seed,
        pretrained=pretrained,
        device=device,
        dtype=dtype,
        fast=fast,
        batch_size=batch_size,
        num_workers=num_workers,
        cache=cache,
        skip_unreadable=skip_unreadable,
    )
    try:
        with cpu_threads(threads):
            result = probing.probe_models(dataset, split_list(models, "models"), settings)
    except Interrupted as e:
        _print(e.result, as_json)
        say_interrupted(e, files)
        raise typer.Exit(INTERRUPTED) from None
    _print(result, as_json)
    save(result, files)
    if steps := after_probing(dataset, result):
        typer.echo(steps, err=True)
    end(result, "probed", keep_going)


def _parse_shots(text: str) -> tuple[int, ...] | Literal["auto"]:
    """Parse ``1,2,5,all`` or ``auto``. All images are tried in any case."""
    parts = [part.strip().lower() for part in text.split(",")]
    if parts == ["auto"]:
        return "auto"
    if bad := [part for part in parts if part != "all" and not part.isdecimal()]:
        raise InputError(f"--shots {text!r} has {bad[0]!r}; whole numbers from 1, all, or auto alone are allowed")
    return tuple(int(part) for part in parts if part != "all")


def _print(result: Probing, as_json: bool) -> None:
    if as_json:
        print_json(result.as_dict())
        return
    about = result.about
    val = f" and {about['val_images']} to judge by (val)" if about["val_images"] else ""
    typer.echo(
        f"{about['source']}: {about['images']} of {about['of']} {about['kind']}{val}, {about['classes']} classes, "
        f"{about['method']}, {about['folds']} folds, {where(about, result.rows)}; accuracy in %, brackets hold 90 % "
        "intervals",
        err=True,
    )
    show(result.table())
