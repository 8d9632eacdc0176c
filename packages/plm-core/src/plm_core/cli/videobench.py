"""``plm videobench``: the answers of a model to PLM-VideoBench, and their scores."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from plm_core.cli.light import LightCommand, LightHelp, RayCommand
from plm_core.cli.options import BatchSize, Device, Dtype, Json, Ray, Seed
from plm_core.cli.table import show
from plm_core.errors import InputError
from plm_core.utils.arguments import DEVICE
from plm_core.utils.ranges import check_choice
from plm_core.utils.text import shown

if TYPE_CHECKING:
    from plm_core.videobench import Judge, RunReport, Scores

INTERRUPTED = 130
"""Exit code of a shell's command that Ctrl-C ended."""
KEY = "PLM_JUDGE_KEY"
"""The environment variable with the key of a judge at an endpoint, which no command line should show."""
LISTED = 10
"""The most rows of a kind whose errors are printed. The files have all of them."""
LONGEST = 1000
"""The most characters of one of them."""
JUDGES = ("string", "endpoint", "local")


class _Group(LightHelp, typer.core.TyperGroup):
    pass


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    no_args_is_help=True,
    help="Answer and score PLM-VideoBench, five tasks on videos.",
)

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="Folder like the dataset facebook/PLM-VideoBench: TASK/plm_TASK_test.jsonl or .parquet, and "
        "metadata/metadata_test.jsonl with the boxes.",
    ),
]
Tasks = Annotated[
    str | None,
    typer.Option("--tasks", help="Tasks with commas between them: fgqa, sgqa, rdcap, rcap, rtloc (default: all)."),
]
Prompts = Annotated[
    str,
    typer.Option(
        "--prompts",
        help="plain; lmms-eval for the literal words of that package, if it is installed; or shapes for the "
        "miniature in the world of shapes.",
    ),
]


@app.command(name="run", cls=RayCommand, help="Ask a model the questions of the benchmark, and write its answers.")
def _run(
    model: Annotated[
        str,
        typer.Argument(
            help="Name of a language model with vision, or MODULE:FUNCTION of a function that returns an object with "
            "name and answer(requests)."
        ),
    ],
    data: Data,
    out: Annotated[
        Path,
        typer.Option("--out", help="Folder to write: TASK.jsonl for each task. The same command goes on from there."),
    ],
    tasks: Tasks = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Rows of each task (default: all).")] = None,
    videos: Annotated[
        Path | None, typer.Option("--videos", metavar="DIR", help="Folder of the videos (default: DATA/videos).")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Part of the data: test, or val.")] = "test",
    frames: Annotated[int, typer.Option("--frames", min=1, help="Frames that the model sees of each video.")] = 32,
    prompts: Prompts = "plain",
    batch_size: BatchSize = 1,
    device: Device = DEVICE,
    dtype: Dtype = "fp32",
    ray: Ray = None,
    as_json: Json = False,
) -> None:
    """Ask a model the questions of the benchmark, and write its answers."""
    from plm_core import videobench

    try:
        report = videobench.run(
            videobench.AnswererName(name=model, device=device, dtype=dtype),
            data,
            out,
            tasks=_names(tasks),
            limit=limit,
            videos=videos,
            settings=videobench.RunSettings(split=split, frames=frames, prompts=prompts),
            batch_size=batch_size,
            ray=ray,
        )
    except KeyboardInterrupt:
        typer.echo(f"interrupted; the answers so far are in {out}; the same command goes on from here", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _print_report(report, as_json)


def _print_report(report: RunReport, as_json: bool) -> None:
    rows = [
        {"task": name, "answered": count, "before": report.resumed[name]} for name, count in report.answered.items()
    ]
    if as_json:
        summary = {"out": str(report.out), "tasks": rows, "unreadable": report.unreadable}
        print(json.dumps(summary, indent=2))
    else:
        show(rows)
    for row, error in list(report.unreadable.items())[:LISTED]:
        typer.echo(shown(f"plm: error: {row}: {error}", LONGEST), err=True)
    if report.unreadable:
        typer.echo(
            f"plm: error: {len(report.unreadable)} rows have no answer; the same command tries them again", err=True
        )
        raise typer.Exit(2)


@app.command(name="score", cls=LightCommand, help="Score answers to the benchmark, of any model.")
def _score(
    predictions: Annotated[
        Path,
        typer.Argument(help="Folder with TASK.jsonl, or one such file. A line has uid and prediction."),
    ],
    data: Data,
    judge: Annotated[
        str,
        typer.Option(
            "--judge",
            help="Judge of answers and captions: endpoint, local, or string for a comparison of words, which is no "
            "language model.",
        ),
    ] = "string",
    judge_model: Annotated[
        str | None, typer.Option("--judge-model", help="Name of the judge's language model (endpoint, local).")
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url",
            metavar="URL",
            help=f"Address that speaks OpenAI's chat completions (endpoint). Its key is read from {KEY}.",
        ),
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for a reply.")] = 120.0,
    parallel: Annotated[int, typer.Option("--parallel", min=1, help="Questions to an endpoint at the same time.")] = 8,
    prompts: Prompts = "plain",
    tasks: Tasks = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Part of the data (default: that of the run, else test).")
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option("--frames", min=1, help="Frames that the model saw (default: those of the run, else 32)."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Score the rows that have an answer (default: an error if one has none).")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder for scores.json and the judge's replies (default: that of the answers).",
        ),
    ] = None,
    device: Device = DEVICE,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Score answers to the benchmark, of any model."""
    from plm_core import videobench

    check_choice("judge", judge, JUDGES)
    scores = videobench.score(
        predictions,
        data,
        _judge(judge, judge_model, base_url, {"timeout": timeout, "parallel": parallel}, prompts, device),
        tasks=_names(tasks),
        split=split,
        frames=frames,
        partial=partial,
        out=out,
        seed=seed,
    )
    if as_json:
        print(json.dumps(scores.as_dict(), indent=2))
    else:
        show(scores.rows())
    _end(scores)


def _judge(
    kind: str, model: str | None, base_url: str | None, options: dict[str, Any], prompts: str, device: str
) -> Judge:
    from plm_core import videobench
    from plm_core.videobench.prompts import load_prompts

    if kind == "string":
        return videobench.StringJudge()
    if not model:
        raise InputError(f"--judge {kind} needs --judge-model, the name of a language model")
    if kind == "local":
        return videobench.LocalJudge(model, device, load_prompts(prompts))
    if not base_url:
        raise InputError("--judge endpoint needs --base-url, an address such as http://localhost:8000/v1")
    return videobench.EndpointJudge(base_url, model, os.environ.get(KEY), prompts=load_prompts(prompts), **options)


def _names(tasks: str | None) -> list[str] | None:
    return None if tasks is None else [name.strip() for name in tasks.split(",") if name.strip()]


def _end(scores: Scores) -> None:
    """Say how many rows the judge left open. As for plm embed, the exit code is 2 if there are any."""
    if scores.total is None:
        typer.echo("no total: it is of all five tasks", err=True)
    if not scores.unjudged:
        return
    for task in scores.tasks.values():
        for uid, why in list(task.failed.items())[:LISTED]:
            typer.echo(shown(f"plm: error: {task.task} {uid}: {why}", LONGEST), err=True)
    typer.echo(f"plm: error: {scores.unjudged} rows are not judged; the same command asks again", err=True)
    raise typer.Exit(2)
