"""``plm ask``: questions about images and videos, one or a file of them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plm_core.cli.notes import printable, say_model
from plm_core.cli.options import (
    LANGUAGE_MODEL,
    BatchSize,
    Beams,
    Device,
    Json,
    KeepTokens,
    LanguageModel,
    MaxNewTokens,
    MaxTokens,
    Seed,
    Temperature,
    Threads,
    TopP,
    Transforms,
    WeightsDtype,
)
from plm_core.errors import InputError
from plm_core.utils.arguments import DEVICE

if TYPE_CHECKING:
    from plm_core.lm.asking import FileReport
    from plm_core.lm.assistant import Answer, Assistant
    from plm_core.lm.prompts import Prompt

INTERRUPTED = 130
"""Exit code of a shell's command that Ctrl-C ended."""


def ask(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILES]... QUESTION",
            help="Images and videos, and after them the question. <image> and <video> in it mark their places; without "
            "marks they come first.",
        ),
    ] = None,
    model: LanguageModel = LANGUAGE_MODEL,
    start: Annotated[
        float | None, typer.Option("--start", min=0, help="Start in seconds of the part of the video that is meant.")
    ] = None,
    end: Annotated[float | None, typer.Option("--end", min=0, help="End of that part in seconds.")] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            "--box",
            metavar="X0,Y0,X1,Y1",
            help="A region of the one image in pixels, for which <|bbox0|> stands in the question, <|bbox1|> for the "
            'second and so on; a question without them gets "<|bbox0|> " in front. For a video one box is drawn on '
            "its frames. May be repeated.",
        ),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            "--questions",
            metavar="FILE.jsonl",
            help='Many questions in place of one, a row in each line: {"media": ["a.jpg"], "question": "..."}, and '
            "start, end and boxes where they are needed. Paths are relative to the folder of the file.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE.jsonl",
            help="With --questions: file of the answers. The same command goes on where it was stopped.",
        ),
    ] = None,
    batch_size: BatchSize = 8,
    max_tokens: MaxTokens = None,
    keep_tokens: KeepTokens = None,
    transform: Transforms = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    beams: Beams = 1,
    seed: Seed = 0,
    device: Device = DEVICE,
    dtype: WeightsDtype = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Ask a language model about images and videos."""
    _check_words(words, questions, out, start is not None or end is not None or bool(box))
    import torch

    from plm_core.lm import asking
    from plm_core.utils.devices import cpu_threads

    options = asking.generation(max_new_tokens, temperature, top_p, beams)
    prompt = None
    if words:  # before the model, so that a file that is not there fails at once
        boxes = [_box(text) for text in box or []]
        prompt = asking.question(words[-1], words[:-1], start=start, end=end, boxes=boxes)
    cheaper: dict[str, Any] = {"transform": transform or [], "keep_tokens": keep_tokens, "max_tokens": max_tokens}
    with cpu_threads(threads):
        assistant = asking.load_assistant(model, dtype=dtype, device=device, **cheaper)
        say_model(model)
        torch.manual_seed(seed)
        if prompt is not None:
            _one(assistant, prompt, model, options, as_json)
            return
        assert questions is not None
        assert out is not None
        run = {"model": model, "options": {"dtype": dtype, **cheaper, **options, "seed": seed}}
        _many(assistant, questions, out, run, batch_size, options, as_json)


def _check_words(words: list[str] | None, questions: Path | None, out: Path | None, parts: bool) -> None:
    if bool(words) == (questions is not None):
        raise InputError("one question is expected, after its images and videos; or a file of them by --questions")
    if words and os.path.isfile(words[-1]):  # a Path refuses a word that is too long for a name
        raise InputError(f"the question is missing: the last word, {words[-1]!r}, is a file")
    if (questions is None) != (out is None):
        raise InputError("--questions and --out belong together: a file of questions, and one for the answers")
    if questions is not None and parts:
        raise InputError("--start, --end and --box are for one question; each row of --questions has its own")


def _box(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise InputError(f"--box {text!r} is not allowed: four numbers x0,y0,x1,y1 in pixels are") from None


def _one(assistant: Assistant, prompt: Prompt, model: str, options: dict[str, Any], as_json: bool) -> None:
    from plm_core.lm import asking

    streams = sys.stdout.isatty() and not as_json and "num_beams" not in options
    answer = assistant.ask(prompt, stream=show_piece if streams else None, **options)
    if as_json:
        print(json.dumps({"model": model, **asking.result(answer)}, indent=2))
    else:
        show_answer(answer, streams)
    say_cost(answer)


def show_piece(piece: str) -> None:
    """Print a piece of an answer as it comes."""
    print(printable(piece), end="", flush=True)


def show_answer(answer: Answer, streamed: bool) -> None:
    """Print an answer, with times in seconds. After a stream, which tells frames, only the times are left to print."""
    if streamed:
        print()
    if not streamed or answer.in_seconds != answer.text:
        print(f"{'in seconds: ' if streamed else ''}{printable(answer.in_seconds)}", flush=True)


def say_cost(answer: Answer) -> None:
    """Say what an answer cost, and whether it was cut off."""
    cut = "" if answer.finished else ", cut off"
    typer.echo(
        f"tokens: {answer.visual_tokens} visual (of {answer.chunks} tiles or frames) of {answer.prompt_tokens} in the "
        f"prompt, {answer.new_tokens} in the answer{cut}",
        err=True,
    )


def _many(
    assistant: Assistant,
    questions: Path,
    out: Path,
    run: dict[str, Any],
    batch_size: int,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    from plm_core.lm import asking
    from plm_core.utils.progress import progress_bar

    def report(fault: str) -> None:
        print(f"plm: error: {printable(fault)}", file=sys.stderr)

    try:
        with progress_bar("questions", asking.count_questions(questions)) as advance:
            done = asking.answer_file(
                assistant, questions, out, run, batch_size, on_fault=report, advance=advance, **options
            )
    except KeyboardInterrupt:
        typer.echo(f"interrupted; the answers so far are in {out}, and the same command goes on from there", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _show_report(done, as_json)
    typer.echo(f"wrote {out.resolve()}", err=True)
    if done.faults:
        total = done.answered + done.kept + len(done.faults)
        print(f"plm: error: {len(done.faults)} of {total} questions could not be answered", file=sys.stderr)
        raise typer.Exit(2)


def _show_report(done: FileReport, as_json: bool) -> None:
    from plm_core.cli.table import show

    row = {
        "answered": done.answered,
        "kept": done.kept,
        "faults": len(done.faults),
        "visual_tokens": done.visual_tokens,
        "prompt_tokens": done.prompt_tokens,
        "new_tokens": done.new_tokens,
    }
    if as_json:
        print(json.dumps({**row, "faults": list(done.faults)}, indent=2))
    else:
        show([row])
