"""``parc rank``, which is ``plm rank`` too. stdout is data, stderr is everything else."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from plm_core.cli.light import LightCommand
from plm_core.cli.table import show
from plm_core.errors import InputError, PlmError

if TYPE_CHECKING:
    from parc.ranking import Ranking

INTERRUPTED = 130
"""Exit code of a shell's command that Ctrl-C ended."""


class _RankCommand(LightCommand):
    """``--ray`` may stand without an address: then a cluster is started on this machine."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        following = [*args[1:], "--"]
        pairs = zip(args, following, strict=True)
        args = ["--ray=local" if arg == "--ray" and after.startswith("-") else arg for arg, after in pairs]
        return super().parse_args(ctx, args)


rank = typer.Typer(add_completion=False)


@rank.command(name="rank", cls=_RankCommand, help="Rank models by how well they suit a dataset.")
def _rank(
    dataset: Annotated[
        str, typer.Argument(help="A folder with a folder of images per class, an .npz file, or hf:name[:split].")
    ],
    models: Annotated[
        list[str],
        typer.Option(
            "--models",
            help="resnet*, resnet50.* (all its weights), name.tag, hf-hub:org/name, local-dir:path, or random: before "
            "any of these; may be repeated, or separated by commas.",
        ),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="As parc,knn:k=5,metric=cosine; may be repeated.  [default: parc,logme,knn]"),
    ] = None,
    budget: Annotated[int, typer.Option("--budget", min=2, help="Images to look at, at most.")] = 500,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Draws of these images, to average over.")] = 1,
    pca: Annotated[
        str, typer.Option("--pca", help="Dimensions to reduce features to: 32, none, or compat:32 as published.")
    ] = "32",
    bootstraps: Annotated[
        int, typer.Option("--bootstraps", min=0, help="Half-samples for the intervals; 0 for none.")
    ] = 20,
    reference: Annotated[
        str | None, typer.Option("--reference", help="A model that was trained on the data, for rsa and dds.")
    ] = None,
    imagenet_csv: Annotated[
        Path | None, typer.Option("--imagenet-csv", help="timm's results-imagenet.csv, for imagenet-top1.")
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained/--random", help="Trained weights, or random ones for a first look.")
    ] = True,
    device: Annotated[str, typer.Option("--device", help="auto, or as torch names it: cpu, cuda, cuda:1.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="fp32, or bf16 and fp16 by autocast.")] = "fp32",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images at once.")] = 32,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Processes that decode images.  [default: 0 on a CPU]")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Work on this Ray cluster. Without an address, as the last option, one is started on this machine.",
        ),
    ] = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep features in $PLM_CACHE/parc.")] = True,
    out: Annotated[
        list[Path] | None, typer.Option("--out", help="Write .csv, .json, .md, .png, .svg or .pdf; may be repeated.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="The picture to write.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rank models by how well they suit a dataset."""
    from parc.ranking import METHODS, Interrupted
    from parc.ranking import rank as ranked
    from parc.ranking.report import check_path

    files = [*(out or []), *([plot] if plot else [])]
    for file in files:
        check_path(file)
    try:
        ranking = ranked(
            dataset,
            _split(models, "models"),
            _split(method or METHODS, "method"),
            budget=budget,
            runs=runs,
            pca=_pca(pca),
            bootstraps=bootstraps,
            reference=reference,
            imagenet_csv=imagenet_csv,
            pretrained=pretrained,
            device=device,
            dtype=dtype,
            batch=batch,
            workers=workers,
            ray=ray,
            cache=cache,
        )
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
    from parc.ranking.report import as_dict, table

    if as_json:
        import json

        print(json.dumps(as_dict(ranking), indent=2, default=str))
        return
    about = ranking.about
    typer.echo(
        f"{about['dataset']}: {about['images']} of {about['of']} images, {about['classes']} classes, "
        f"{about['runs']} probe{'s' * (about['runs'] > 1)}, pca {about['pca']}; higher scores are better, "
        f"in brackets the interval of 90 %",
        err=True,
    )
    show(table(ranking))


def _split(texts: Iterable[str], what: str) -> list[str]:
    """Take apart at commas, but not before ``key=value``: ``knn:k=5,metric=cosine,parc`` is two methods."""
    parts: list[str] = []
    for text in texts:
        for i, part in enumerate(text.split(",")):
            option = "=" in part and ":" not in part.partition("=")[0]
            if i and (option or parts[-1].startswith("local-dir:")):
                parts[-1] += f",{part}"
            else:
                parts.append(part.strip())
    if not all(parts):
        raise InputError(f"--{what} {','.join(texts)!r} has an empty part")
    return parts


def _pca(text: str) -> int | str | None:
    if text.lower() in ("none", "off", "0"):
        return None
    if not text.isdigit():
        return text  # the reduction says whether it knows the recipe
    return int(text)


def main() -> None:
    """Entry point of the console script ``parc``."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="parc: %(message)s")
    command = typer.core.TyperGroup(
        name="parc",
        commands={"rank": typer.main.get_command(rank)},
        no_args_is_help=True,
        help="Which of these models should I fine-tune on my data?",
    )
    try:
        command()
    except PlmError as e:
        print(f"parc: error: {e}", file=sys.stderr)
        sys.exit(2)
