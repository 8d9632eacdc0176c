"""Options and messages that both commands have."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from parc.interrupted import Interrupted
from parc.writing import PICTURES, check_path
from plm_core.errors import InputError, PlmError

INTERRUPTED = 130
"""Exit code of a shell's command that Ctrl-C ended."""

Data = Annotated[
    str,
    typer.Argument(
        help="A folder with one folder of images or of videos per class, an .npz file, or "
        "hf:name[:split][,label=COLUMN]."
    ),
]
Pretrained = Annotated[
    bool, typer.Option("--pretrained/--random", help="Use trained weights, or random ones for a first look.")
]
Cached = Annotated[
    bool, typer.Option("--cache/--no-cache", help="Keep features in $PLM_CACHE/parc, the same with and without --fast.")
]
KeepGoing = Annotated[
    bool,
    typer.Option(
        "--keep-going", help="End with exit code 0 although some models or methods failed; otherwise it is 1."
    ),
]
Plot = Annotated[Path | None, typer.Option("--plot", help="The picture to write: .png, .svg or .pdf.")]


def out(result: str) -> Any:
    """Return the option that names the files to write a result to."""
    help = f"File to write the {result} to: .csv, .json or .md, or a picture as for --plot. May be repeated."
    return typer.Option("--out", help=help)


def models(task: str) -> Any:
    """Return the option that names the models of a task."""
    return typer.Option(
        "--models",
        help=f"Models to {task}: resnet*, resnet50.* (all its weights), name.tag, the path of a model folder, "
        "hf-hub:org/name, torchvision:resnet* or transformers:org/name; the prefix random: stands for random weights. "
        "May be repeated, or separated by commas.",
    )


def split_list(texts: Iterable[str], option: str) -> list[str]:
    """Split at commas, but not before ``key=value``: ``knn:k=5,metric=cosine,parc`` is two methods."""
    parts: list[str] = []
    for text in texts:
        for i, part in enumerate(text.split(",")):
            is_option = "=" in part and ":" not in part.partition("=")[0]
            # a path may have commas
            if i and (is_option or Path(f"{parts[-1]},{part}".removeprefix("local-dir:")).exists()):
                parts[-1] += f",{part}"
            else:
                parts.append(part.strip())
    if not all(parts):
        raise InputError(f"--{option} {','.join(texts)!r} has an empty part")
    return parts


def check_files(out: Sequence[Path] | None, plot: Path | None) -> list[Path]:
    """Return the files to write, after a check that they can have a result and a picture.

    Raises:
        InputError: A file has another ending.
        MissingDependency: A picture is asked for, but matplotlib is not installed.
    """
    for file in out or []:
        check_path(file)
    if plot is not None:
        check_path(plot, PICTURES)
    return [*(out or []), *([plot] if plot else [])]


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Use so many threads for models and scores inside the block; None changes nothing."""
    if count is None:
        yield
        return
    from threadpoolctl import threadpool_limits

    from plm_core.utils import devices

    with devices.cpu_threads(count), threadpool_limits(count, user_api="blas"):
        yield


def where(about: Mapping[str, Any], rows: Iterable[Any]) -> str:
    """Say which device the models run on, and that features are from the cache if some are."""
    cached = "; (cached): the features of an earlier run, and the time that they took then"
    fast = ", fast" * bool(about.get("fast"))
    return f"on {about['device']}{fast}" + cached * any(row.cached for row in rows)


def end(result: Any, done: str, keep_going: bool) -> None:
    """End a command with exit code 1 if some models, or a method for all of them, failed, unless ``keep_going``.

    Raises:
        PlmError: All models failed.
    """
    failed = result.failed
    if len(failed) == len(result.models):
        raise PlmError(f"no model could be {done}; the table says why")
    if keep_going:
        return
    if methods := getattr(result, "failed_methods", []):
        typer.echo(f"{', '.join(methods)} failed for all models; the table says why", err=True)
    if failed:
        typer.echo(f"{len(failed)} of {len(result.models)} models failed: {', '.join(failed)}", err=True)
    if failed or methods:
        raise typer.Exit(1)


def print_json(data: Any) -> None:
    """Print plain data as JSON."""
    print(json.dumps(data, indent=2, default=str))


def save(result: Any, files: Iterable[Path]) -> None:
    """Write a ranking or a probing to files, and name each on stderr."""
    for file in files:
        result.save(file)
        typer.echo(f"wrote {file.resolve()}", err=True)


def say_interrupted(error: Interrupted, files: Sequence[Path]) -> None:
    """Say on stderr what Ctrl-C has left undone."""
    unwritten = f"; not written: {', '.join(map(str, files))}" if files else ""
    typer.echo(f"interrupted, {error.left} models left; the same command goes on from here{unwritten}", err=True)
