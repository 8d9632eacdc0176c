"""The command ``parc rank``, which is also ``plm rank``. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from parc.ranking.settings import Settings
from plm_core.cli.light import LightCommand
from plm_core.cli.options import BatchSize, Device, Dtype, Json, NumWorkers
from plm_core.cli.table import show
from plm_core.errors import InputError, PlmError

if TYPE_CHECKING:
    from parc.ranking.results import Ranking

INTERRUPTED = 130
"""Exit code of a shell's command that Ctrl-C ended."""


class _RankCommand(LightCommand):
    """The command, where ``--ray`` may stand without an address. A cluster is then started on this machine."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        following = [*args[1:], "--"]
        pairs = zip(args, following, strict=True)
        args = ["--ray=local" if arg == "--ray" and after.startswith("-") else arg for arg, after in pairs]
        return super().parse_args(ctx, args)


app = typer.Typer(add_completion=False)


@app.command(name="rank", cls=_RankCommand, help="Rank models by how well they suit a dataset.")
def _command(
    dataset: Annotated[
        str,
        typer.Argument(help="A folder with one folder of images per class, an .npz file, or hf:name[:split]."),
    ],
    models: Annotated[
        list[str],
        typer.Option(
            "--models",
            help="Models to rank: resnet*, resnet50.* (all its weights), name.tag, hf-hub:org/name, local-dir:path, "
            "torchvision:resnet* or transformers:org/name; the prefix random: stands for random weights. May be "
            "repeated, or separated by commas.",
        ),
    ],
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
    pretrained: Annotated[
        bool, typer.Option("--pretrained/--random", help="Use trained weights, or random ones for a first look.")
    ] = True,
    device: Device = Settings.device,
    dtype: Dtype = Settings.dtype,
    batch_size: BatchSize = Settings.batch_size,
    num_workers: NumWorkers = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Address of a Ray cluster that does the work. Without an address, a cluster is started on this "
            "machine; --ray must then be the last argument.",
        ),
    ] = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep features in $PLM_CACHE/parc.")] = True,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out",
            help="File to write the ranking to: .csv, .json or .md, or a picture as for --plot. May be repeated.",
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="The picture to write: .png, .svg or .pdf.")] = None,
    as_json: Json = False,
) -> None:
    """Rank models by how well they suit a dataset."""
    from parc.ranking import Interrupted, rank_models
    from parc.ranking.report import check_path

    files = [*(out or []), *([plot] if plot else [])]
    for file in files:
        check_path(file)
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
        batch_size=batch_size,
        num_workers=num_workers,
        ray=ray,
        cache=cache,
    )
    try:
        ranking = rank_models(dataset, split_list(models, "models"), settings)
    except Interrupted as e:
        _print(e.ranking, as_json)
        unwritten = f"; not written: {', '.join(map(str, files))}" if files else ""
        typer.echo(f"interrupted, {e.left} models left; the same command goes on from here{unwritten}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _print(ranking, as_json)
    for file in files:
        ranking.save(file)
        typer.echo(f"wrote {file.resolve()}", err=True)
    if all(row.score is None for row in ranking.rows):
        raise PlmError("no model could be scored; the table says why")


def _print(ranking: Ranking, as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(ranking.as_dict(), indent=2, default=str))
        return
    about = ranking.about
    typer.echo(
        f"{about['dataset']}: {about['images']} of {about['of']} images, {about['classes']} classes, "
        f"{about['runs']} probe{'s' * (about['runs'] > 1)}, pca {about['pca']}; higher scores are better, "
        f"brackets hold 90 % intervals",
        err=True,
    )
    show(ranking.table())


def split_list(texts: Iterable[str], option: str) -> list[str]:
    """Split at commas, but not before ``key=value``: ``knn:k=5,metric=cosine,parc`` is two methods."""
    parts: list[str] = []
    for text in texts:
        for i, part in enumerate(text.split(",")):
            is_option = "=" in part and ":" not in part.partition("=")[0]
            if i and (is_option or parts[-1].startswith("local-dir:")):
                parts[-1] += f",{part}"
            else:
                parts.append(part.strip())
    if not all(parts):
        raise InputError(f"--{option} {','.join(texts)!r} has an empty part")
    return parts


def _parse_pca(text: str) -> int | str | None:
    if text.lower() in ("none", "off", "0"):
        return None
    return int(text) if text.isdigit() else text  # Settings checks whether the text is a recipe


def main() -> None:
    """Run the console script ``parc``."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="parc: %(message)s")
    command = typer.core.TyperGroup(
        name="parc",
        commands={"rank": typer.main.get_command(app)},
        no_args_is_help=True,
        help="Which of these models should I fine-tune on my data?",
    )
    try:
        command()
    except PlmError as e:
        print(f"parc: error: {e}", file=sys.stderr)
        sys.exit(2)
