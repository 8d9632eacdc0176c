"""Questions as people write them: a text with files and regions, or a file of many, whose answers are kept in another.

assistant = load_assistant("plm_micro_shapes", keep_tokens=4)
assistant.ask(question("where is it?", ["clip.mp4"], start=5, end=20))
answer_file(assistant, Path("questions.jsonl"), Path("answers.jsonl"), {"model": "plm_micro_shapes"})
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from plm_core import transforms
from plm_core.errors import FileError, InputError
from plm_core.lm.assistant import Answer, Assistant
from plm_core.lm.pretrained import DTYPES
from plm_core.lm.prompts import Medium, Prompt, video_of
from plm_core.utils.arguments import DEVICE
from plm_core.utils.files import make_folder
from plm_core.utils.ranges import check_choice, real

MARK = "<|bbox"
"""How the marks of regions in a question begin."""
KEYS = ("question", "media", "start", "end", "boxes")
"""The keys of a row of a file of questions that say something to us. Others are kept as they are."""


def load_assistant(
    source: str,
    *,
    dtype: str | None = None,
    device: str = DEVICE,
    transform: Sequence[str] = (),
    keep_tokens: int | None = None,
    max_tokens: int | None = None,
) -> Assistant:
    """Load a model and its processor, with all that makes it cheaper.

    Args:
        source: See `plm_core.lm.from_pretrained`.
        dtype: Precision of the weights, "fp32" or "bf16"; None for that of the file.
        device: See `Assistant.from_pretrained`.
        transform: Transforms of the vision tower, each in the form ``tome:r=8``.
        keep_tokens: Visual tokens that are left of each chunk, see `Assistant.keep_tokens`.
        max_tokens: Visual tokens that one image or one video may take.

    Raises:
        UnknownName: There is no such model or transform.
        WeightsError: Something cannot be obtained or does not fit.
        InputError: An argument has a value that is not allowed.
        NotSupported: A transform cannot work on the tower.
    """
    check_dtype(dtype)
    assistant = Assistant.from_pretrained(source, None if dtype is None else DTYPES[dtype], device)
    transforms.apply_all(assistant.model, transform)
    if keep_tokens is not None:
        assistant.keep_tokens(keep_tokens)
    if max_tokens is not None:
        assistant.processor = assistant.processor.with_settings(max_tokens=max_tokens)
    return assistant


def check_dtype(dtype: str | None) -> None:
    """Check the precision of weights.

    Raises:
        InputError: It is neither "fp32" nor "bf16" nor None.
    """
    if dtype is not None:
        check_choice("dtype", dtype, tuple(DTYPES))


def generation(
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    beams: int = 1,
) -> dict[str, Any]:
    """Return the keywords of transformers' ``generate`` for the options of a command line.

    Args:
        max_new_tokens: The most tokens of an answer; None for the default.
        temperature: 0 or None for the most likely answer, unless ``top_p`` is given; otherwise tokens are drawn.
        top_p: Tokens are drawn from the likeliest ones that have this probability together; None for all.
        beams: Number of beams.
    """
    options: dict[str, Any] = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    if temperature or (temperature is None and top_p is not None):
        drawn = {"do_sample": True, "temperature": 1.0 if temperature is None else temperature, "top_k": 0}
        options |= drawn if top_p is None else {**drawn, "top_p": top_p}
    if beams > 1:
        options["num_beams"] = beams
    return options


# --- one question -------------------------------------------------------------------------------------------------


def question(
    text: str,
    media: Sequence[Medium] = (),
    *,
    start: float | None = None,
    end: float | None = None,
    boxes: Sequence[Sequence[float]] = (),
) -> Prompt:
    """Return a question as a prompt.

    Args:
        text: The question.
        media: Images and videos. A video is known by the ending of its file.
        start: Start in seconds of the part of the one video that is meant; None for its beginning.
        end: End of that part; None for its end.
        boxes: Regions x0, y0, x1, y1 in pixels: any number of one image, or one of a video, which is drawn on its
            frames. If the text has no ``<|bbox0|>`` that says where the image's regions are meant, the marks of all
            are put in front of it.

    Raises:
        InputError: A file does not exist, a range without one video, or boxes that are not of one image or video.
    """
    for medium in media:
        if isinstance(medium, str | Path) and not os.path.isfile(medium):
            raise InputError(f"{str(medium)!r} is no file")
    clips = [clip for medium in media if (clip := video_of(medium)) is not None]
    if (start is not None or end is not None) and len(clips) != 1:
        raise InputError(f"start and end are seconds of one video; there are {len(clips)} videos")
    for box in boxes:
        _check_box(box)
    if boxes and (len(media) != 1 or (clips and len(boxes) != 1)):
        raise InputError(
            f"boxes are regions of one image, or one box is drawn on one video; there are {len(boxes)} boxes for "
            f"{len(media)} images and videos"
        )
    if not clips:
        marks = "" if MARK in text else "".join(f"{MARK}{number}|> " for number in range(len(boxes)))
        return Prompt(text=marks + text, media=media, boxes=boxes)
    if len(clips) == 1:
        clip = replace(clips[0], start=start, end=end, box=boxes[0] if boxes else None)
        media = [clip if video_of(medium) is not None else medium for medium in media]
    return Prompt(text=text, media=media)


def _check_box(box: Any) -> None:
    numbers = isinstance(box, Sequence) and len(box) == 4 and all(map(real, box))
    if not numbers or box[0] >= box[2] or box[1] >= box[3]:
        raise InputError(f"box {box!r} is not allowed: x0, y0, x1, y1 in pixels are, with x0 < x1 and y0 < y1")


def result(answer: Answer) -> dict[str, Any]:
    """Return an answer as JSON has it."""
    return {
        "answer": answer.text,
        "in_seconds": answer.in_seconds,
        "spans": [asdict(span) for span in answer.spans],
        "chunks": answer.chunks,
        "tokens": {"visual": answer.visual_tokens, "prompt": answer.prompt_tokens, "new": answer.new_tokens},
        "finished": answer.finished,
    }


# --- many questions -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class QuestionRow:
    """A row of a file of questions.

    Attributes:
        line: Its line, from 1.
        record: What it says.
        prompt: The question.
    """

    line: int
    record: dict[str, Any]
    prompt: Prompt


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """What became of a file of questions.

    Attributes:
        answered: Number of questions that were answered now.
        kept: Number of answers that were there before.
        faults: What is wrong with the others, with their lines.
        visual_tokens: Visual tokens of the answered prompts.
        prompt_tokens: All tokens of them.
        new_tokens: Tokens of the answers.
    """

    answered: int
    kept: int
    faults: tuple[str, ...]
    visual_tokens: int
    prompt_tokens: int
    new_tokens: int


def answer_file(
    assistant: Assistant,
    source: Path,
    out: Path,
    run: Mapping[str, Any],
    batch_size: int = 8,
    on_fault: Callable[[str], None] = lambda fault: None,
    advance: Callable[[float], None] = lambda amount: None,
    **options: Any,
) -> FileReport:
    """Answer a file of questions in batches, and write each answer as soon as it is there.

    Answers that are in ``out`` already stay, so the same call goes on where another was stopped. Rows that cannot be
    read or answered are left out, and are tried again by the next call.

    Args:
        assistant: Who answers.
        source: A row of JSON in each line: ``{"media": ["photo.jpg"], "question": "what is it?"}``, and ``start``,
            ``end`` and ``boxes`` as in `question`. Paths are relative to the folder of the file.
        out: The file of answers, with a row of JSON in each line: the question's line and row, and the answer.
        run: What tells these answers from those of other runs, such as the model. It is in each row of ``out``.
        batch_size: Questions per batch.
        on_fault: A function that is called with each fault, which names the line.
        advance: A function that is called with the number of questions that are done.
        **options: Keywords of transformers' ``generate``.

    Raises:
        InputError: The source cannot be read, or ``out`` has answers of another run or to other questions.
        FileError: ``out`` cannot be written.
    """
    lines = _lines(source)
    done = _answers_before(out, dict(lines), run)
    faults: list[str] = []

    def fault(line: int, error: object) -> None:
        faults.append(f"{source}, line {line}: {error}")
        on_fault(faults[-1])
        advance(1)

    advance(len(done))
    rows = _rows(source.parent, [(line, text) for line, text in lines if line not in done], fault)
    tokens = [0, 0, 0]
    answered = 0
    make_folder(out.parent)
    try:
        with out.open("a", encoding="utf-8") as file:
            while batch := list(islice(rows, batch_size)):
                for row, answer in _batch(assistant, batch, options, fault):
                    told = {"line": row.line, "row": row.record, **run, **result(answer)}
                    file.write(json.dumps(told) + "\n")
                    spent = (answer.visual_tokens, answer.prompt_tokens, answer.new_tokens)
                    tokens = [total + more for total, more in zip(tokens, spent, strict=True)]
                    answered += 1
                    advance(1)
                file.flush()
    except OSError as e:
        raise FileError(f"cannot write {out}: {e}") from e
    return FileReport(
        answered=answered,
        kept=len(done),
        faults=tuple(faults),
        visual_tokens=tokens[0],
        prompt_tokens=tokens[1],
        new_tokens=tokens[2],
    )


def count_questions(source: Path) -> int:
    """Return the number of rows of a file of questions."""
    return len(_lines(source))


def _lines(source: Path) -> list[tuple[int, str]]:
    """Return the lines of a file that are not empty, with their numbers."""
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        raise InputError(f"questions {str(source)!r} cannot be read: {e}") from e
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise InputError(f"questions {str(source)!r} has no rows")
    return lines


def _rows(
    folder: Path, lines: Sequence[tuple[int, str]], fault: Callable[[int, object], None]
) -> Iterator[QuestionRow]:
    for number, line in lines:
        try:
            record = _record(line)
            media = [folder / path for path in record.get("media", [])]
            named = {key: record[key] for key in ("start", "end", "boxes") if record.get(key) is not None}
            yield QuestionRow(line=number, record=record, prompt=question(record["question"], media, **named))
        except InputError as e:
            fault(number, e)


def _record(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as e:
        raise InputError(f"it is no JSON: {e}") from None
    if not isinstance(record, dict) or not isinstance(record.get("question"), str):
        raise InputError('it has no question; {"media": ["photo.jpg"], "question": "what is it?"} is expected')
    media = record.get("media", [])
    if not isinstance(media, list) or not all(isinstance(path, str) for path in media):
        raise InputError(f"media is {media!r}; a list of paths is expected")
    boxes = record.get("boxes") or []
    if not isinstance(boxes, list):
        raise InputError(f"boxes is {boxes!r}; a list of [x0, y0, x1, y1] is expected")
    for key in ("start", "end"):
        if record.get(key) is not None and not real(record[key]):
            raise InputError(f"{key} is {record[key]!r}; a number of seconds is expected")
    return record


def _batch(
    assistant: Assistant,
    rows: Sequence[QuestionRow],
    options: Mapping[str, Any],
    fault: Callable[[int, object], None],
) -> Iterator[tuple[QuestionRow, Answer]]:
    """Answer rows together; if one of them has a fault, each alone."""
    try:
        answers = list(assistant.answers([row.prompt for row in rows], batch_size=len(rows), **options))
    except InputError as e:
        if len(rows) == 1:
            fault(rows[0].line, e)
            return
        for row in rows:
            yield from _batch(assistant, [row], options, fault)
        return
    yield from zip(rows, answers, strict=True)


def _answers_before(out: Path, questions: Mapping[int, str], run: Mapping[str, Any]) -> set[int]:
    """Return the lines whose answers are in a file, from which a line is cut that was not written to its end."""
    if not out.exists():
        return set()
    try:
        contents = out.read_bytes()
        whole = contents[: contents.rfind(b"\n") + 1]
        if whole != contents:
            with out.open("r+b") as file:
                file.truncate(len(whole))
        return {_answered(json.loads(line), questions, run) for line in whole.splitlines()}
    except OSError as e:
        raise FileError(f"cannot read {out}: {e}") from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        why = str(e) if isinstance(e, InputError) else "it is no file of answers"
        raise InputError(f"{str(out)!r} has other contents ({why}); name another file, or remove it") from e


def _answered(row: dict[str, Any], questions: Mapping[int, str], run: Mapping[str, Any]) -> int:
    line: int = row["line"]
    if line not in questions or json.loads(questions[line]) != row["row"]:
        raise InputError(f"its answer to line {line} is one to another question")
    for key, value in run.items():
        if row.get(key) != json.loads(json.dumps(value)):
            raise InputError(f"{key} is {row.get(key)!r} there, and {value!r} now")
    return line
