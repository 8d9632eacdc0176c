"""``plm embed``: the embeddings of all images in a folder, as one file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plm_core.cli.light import RayCommand
from plm_core.cli.options import BatchSize, Device, Dtype, Fast, Json, NumWorkers, Ray, Threads, Transforms
from plm_core.cli.table import show
from plm_core.errors import InputError
from plm_core.utils.arguments import DEVICE

if TYPE_CHECKING:
    from plm_core.embeddings import Report

INTERRUPTED = 130
"""Exit code of a shell's command that Ctrl-C ended."""

app = typer.Typer(add_completion=False)


@app.command(name="embed", cls=RayCommand, help="Write the embeddings of all images in a folder to a file.")
def _embed(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of images, with all folders below.")],
    model: Annotated[
        str,
        typer.Option("--model", help="Name of a model, with or without tag (see plm list --timm), or folder of one."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="File to write: .safetensors or .parquet. The results so far are kept in OUT.partial, and the same "
            "command goes on from there.",
        ),
    ],
    transform: Transforms = None,
    batch_size: BatchSize = 64,
    num_workers: NumWorkers = None,
    device: Device = DEVICE,
    dtype: Dtype = "fp32",
    store: Annotated[
        str, typer.Option("--store", help="Type of the numbers in the file: float32, or float16 for half its size.")
    ] = "float32",
    fast: Fast = False,
    ray: Ray = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Write the embeddings of all images in a folder to a file."""
    from plm_core.embeddings import embed_folder
    from plm_core.utils.devices import cpu_threads

    for name, value in (("--threads", threads), ("--num-workers", num_workers)):
        if value and ray:
            raise InputError(f"{name} is for this process; a Ray worker has one thread and reads its own images")
    try:
        with cpu_threads(threads):
            report = embed_folder(
                folder,
                model,
                out,
                transforms=transform or (),
                batch_size=batch_size,
                num_workers=num_workers,
                device=device,
                dtype=dtype,
                fast=fast,
                store=store,
                ray=ray,
            )
    except KeyboardInterrupt:
        typer.echo(f"interrupted; not written: {out}; the same command goes on from here", err=True)
        raise typer.Exit(INTERRUPTED) from None
    summary = _summary(report)
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        show([{name: value for name, value in summary.items() if name not in ("model", "unreadable")}])
    if report.packed:
        typer.echo(f"fast: {report.packed}", err=True)
    if report.resumed:
        typer.echo(f"{report.resumed} of them were left by an interrupted run", err=True)
    typer.echo(f"wrote {out.resolve()}", err=True)
    _end(report)


def _summary(report: Report) -> dict[str, Any]:
    vectors = report.embeddings.vectors
    return {
        "model": report.embeddings.model,
        "images": len(vectors),
        "dimension": vectors.shape[1],
        "store": str(vectors.dtype),
        "resumed": report.resumed,
        "seconds": round(report.seconds, 3),
        "images_per_second": round(report.images_per_second, 1),
        "unreadable": list(report.unreadable),
    }


def _end(report: Report) -> None:
    """List the images that could not be read. As for plm predict, the exit code is 2 if there are any."""
    if not report.unreadable:
        return
    for error in report.unreadable.values():
        print(f"plm: error: {error}", file=sys.stderr)
    total = len(report.embeddings) + len(report.unreadable)
    print(f"plm: error: {len(report.unreadable)} of {total} files could not be read", file=sys.stderr)
    raise typer.Exit(2)
