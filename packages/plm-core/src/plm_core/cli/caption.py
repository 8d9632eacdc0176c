"""``plm caption``: captions of images and videos, and questions about them, that models write."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plm_core.cli.light import RayCommand
from plm_core.cli.options import Device, Json, Ray
from plm_core.cli.table import show
from plm_core.errors import InputError
from plm_core.utils.arguments import DEVICE
from plm_core.utils.near_misses import miss
from plm_core.utils.ranges import check_choice
from plm_core.utils.text import first_line, shown

if TYPE_CHECKING:
    from plm_core.lm.engine import Prompts, Report

INTERRUPTED = 130
"""Exit code of a shell's command that Ctrl-C ended."""
KEY = "PLM_ENDPOINT_KEY"
"""The environment variable with the key of an endpoint, which no command line should show."""
LISTED = 10
"""The most errors that are printed. The journal has all of them."""
WRITERS = ("endpoint", "model", "none")

app = typer.Typer(add_completion=False)


@app.command(name="caption", cls=RayCommand, help="Write captions of images and videos, as data to train on.")
def _caption(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILES...", help="Images, videos, and folders of them. A video is split into clips."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="File to write: .jsonl. The results so far are kept in OUT.work, and --resume goes on from there.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", help="A language model with vision that describes: name, folder, or org/name."),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint",
            metavar="URL",
            help="Address that speaks OpenAI's chat completions, such as http://localhost:8000/v1. It merges and "
            f"writes, and describes unless there is a --model. Its key is read from {KEY}.",
        ),
    ] = None,
    endpoint_model: Annotated[
        str | None, typer.Option("--endpoint-model", metavar="NAME", help="Name of the model at the endpoint.")
    ] = None,
    merge: Annotated[
        str | None,
        typer.Option(
            "--merge",
            help="Who makes one caption of the descriptions of a clip: endpoint, model (that of --model, which must be "
            "able to), or none to put them one after the other (default: the endpoint if there is one).",
        ),
    ] = None,
    writer: Annotated[
        str | None,
        typer.Option(
            "--writer",
            help="Who writes questions: endpoint, model, or none (default: the endpoint if there is one).",
        ),
    ] = None,
    qa: Annotated[
        int, typer.Option("--qa", min=0, metavar="N", help="Questions about each image and clip, by the writer.")
    ] = 0,
    notes: Annotated[
        Path | None,
        typer.Option(
            "--notes",
            metavar="FILE",
            help="File of JSON lines with image or video (a path, as in FILES) and notes: text that the image shows, "
            "or labels of the video. The writer is told them.",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            metavar="NAME=TEXT",
            help="What is asked, in the place of our words: image, frame, video, merge or questions. May be repeated.",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Length of the clips of a video, about.")] = 30.0,
    frames: Annotated[int, typer.Option("--frames", min=1, help="Frames of a clip that the model is shown.")] = 32,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Images, or clips of a video, that are worked on together.")
    ] = 8,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens",
            min=1,
            help="The longest text, in tokens of the model (default: 256, and 1024 at an endpoint).",
        ),
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the endpoint.")] = 120.0,
    max_bad: Annotated[
        int, typer.Option("--max-bad", min=0, help="Files that cannot be read and are left out at most.")
    ] = 10,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from what OUT has; what failed is tried again.")
    ] = False,
    device: Device = DEVICE,
    ray: Ray = None,
    as_json: Json = False,
) -> None:
    """Write captions of images and videos, and questions about them."""
    from plm_core.lm.engine import SceneSettings, make

    longest = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    workers = _workers(
        (model, {"device": device, **longest}),
        (endpoint, endpoint_model, {"timeout": timeout, **longest}),
        {"merge": merge, "writer": writer},
    )
    try:
        report = make(
            files if notes is None else _with_notes(files, notes),
            out,
            **workers,
            questions=qa,
            prompts=_prompts(prompt or []),
            scenes=SceneSettings(seconds=seconds),
            frames=frames,
            batch_size=batch_size,
            max_bad=max_bad,
            resume=resume,
            ray=ray,
        )
    except KeyboardInterrupt:
        typer.echo(f"interrupted; what is finished is in {out}; the same command with --resume goes on", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _print(report, as_json)


def _workers(
    model: tuple[str | None, dict[str, Any]],
    endpoint: tuple[str | None, str | None, dict[str, Any]],
    writers: dict[str, str | None],
) -> dict[str, Any]:
    """Return the captioners and writers that the options name, by the arguments of `make`."""
    from plm_core.lm.engine import Endpoint, LocalModel

    url, name, options = endpoint
    if bool(url) != bool(name):
        raise InputError("--endpoint and --endpoint-model belong together: an address, and the name of a model there")
    local = LocalModel(model[0], **model[1]) if model[0] else None
    remote = Endpoint(url, name, os.environ.get(KEY), **options) if url and name else None
    captioner = local or remote
    if captioner is None:
        raise InputError("--model or --endpoint is needed, which describes the files")
    workers: dict[str, Any] = {"captioner": captioner.caption, "video_captioner": captioner.caption}
    for task, given in writers.items():
        choice = given or ("endpoint" if remote else "none")
        check_choice(task, choice, WRITERS)
        chosen = {"endpoint": remote, "model": local, "none": None}[choice]
        if chosen is None and choice != "none":
            raise InputError(f"--{task} {choice} needs --{choice}")
        workers[task] = None if chosen is None else chosen.write
    return workers


def _prompts(texts: list[str]) -> Prompts:
    from plm_core.lm.engine import Prompts

    names = [field.name for field in fields(Prompts)]
    prompts = {}
    for text in texts:
        name, equals, words = text.partition("=")
        if not equals or name not in names:
            raise InputError(f"--prompt {shown(text)!r}: {miss('prompt', name, names)}; NAME=TEXT is expected")
        prompts[name] = words
    return Prompts(**prompts)


def _with_notes(files: list[Path], notes: Path) -> dict[str | Path, str]:
    """Return the files with their notes. A folder stands for the files in it."""
    from plm_core.prediction.files import Kind, find_files

    told: dict[Path, str] = {}
    try:
        lines = notes.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as e:
        raise InputError(f"--notes {str(notes)!r} cannot be read: {first_line(e)}") from e
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            told[Path(row.get("image") or row["video"]).resolve()] = str(row["notes"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise InputError(f"{notes}, line {number}: an object with image or video, and notes, is expected") from e
    found = [file.path for file in find_files(files) if file.kind != Kind.OTHER or file.folder is None]
    with_notes: dict[str | Path, str] = {path: told.pop(path.resolve(), "") for path in found}
    if told:
        raise InputError(f"--notes has {shown(str(next(iter(told))), 200)!r}, which is not among the files")
    return with_notes


def _print(report: Report, as_json: bool) -> None:
    """Print what was done. As for plm embed, the exit code is 2 if something has no text."""
    summary = {"items": report.items, "resumed": report.resumed, **{"captions": 0, "questions": 0}, **report.rows}
    if as_json:
        names = {"unreadable": report.unreadable, "failed": report.failed}
        print(json.dumps({"out": str(report.out), **summary, **names}, indent=2))
    else:
        show([summary])
    typer.echo(f"wrote {report.out.resolve()}", err=True)
    errors = [*report.unreadable.items(), *report.failed.items()]
    for name, error in errors[:LISTED]:
        typer.echo(shown(f"plm: error: {name}: {error}", 1000), err=True)
    if errors:
        counts = f"{len(report.unreadable)} files cannot be read, {len(report.failed)} texts cannot be used"
        typer.echo(f"plm: error: {counts}; the same command with --resume tries them again", err=True)
        raise typer.Exit(2)
