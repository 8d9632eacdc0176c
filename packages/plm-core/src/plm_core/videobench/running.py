"""The answers of a model to the questions of the benchmark, as files that any scorer can read.

For each task, ``OUT/TASK.jsonl`` has a line for each row: ``{"uid": "17", "prediction": "(B)"}``. ``OUT/run.json`` says
what the answers depend on. A row is written as soon as it is answered, so the same call goes on after a kill, and asks
nothing twice. A row whose video cannot be read, or that the model refuses, has ``error`` in the place of
``prediction``, and is tried again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from plm_core.errors import InputError
from plm_core.utils.files import write_text
from plm_core.utils.progress import progress_bar
from plm_core.utils.ranges import whole
from plm_core.utils.text import first_line
from plm_core.videobench.answering import (
    Answer,
    Answerer,
    AnswererName,
    Question,
    Request,
    answer_all,
    read_all,
)
from plm_core.videobench.data import Row, Subjects, TaskRows, find_video, open_data
from plm_core.videobench.parsing import FRAMES
from plm_core.videobench.prompts import Prompts, load_prompts
from plm_core.videobench.records import RUN, Records, only_writer
from plm_core.videobench.tasks import Task


@dataclass(frozen=True)
class RunReport:
    """What a run did.

    Attributes:
        out: The folder of the predictions.
        answered: By task, the number of rows that were answered now.
        resumed: By task, the number of rows that had an answer before.
        unreadable: The rows without an answer, ``task uid``, and why.
    """

    out: Path
    answered: dict[str, int]
    resumed: dict[str, int]
    unreadable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What the answers depend on besides the model.

    Attributes:
        split: The part of the data.
        frames: The number of frames that the model sees of each video.
        prompts: Name of the prompts; see `plm_core.videobench.prompts.load_prompts`.
    """

    split: str = "test"
    frames: int = FRAMES
    prompts: str = "plain"


def run(
    model: Answerer | AnswererName | str,
    data: str | Path,
    out: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    videos: str | Path | None = None,
    settings: RunSettings | None = None,
    prompts: Prompts | None = None,
    batch_size: int = 1,
    ray: str | None = None,
) -> RunReport:
    """Ask a model the questions of the benchmark, and write its answers.

    Args:
        model: The model, or its name (see `AnswererName`), which Ray needs.
        data: The folder of the data; see `plm_core.videobench.data`.
        out: The folder to write. If it holds answers of the same model and settings, the others are added.
        tasks: Names of tasks; None for those that the data have.
        limit: The number of rows of each task, from the first on; None for all.
        videos: The folder of the videos; by default ``videos`` in ``data``.
        settings: What the answers depend on besides the model.
        prompts: Prompts of your own in the place of those that ``settings`` names.
        batch_size: Requests that the model gets at once.
        ray: Address of a Ray cluster that answers; see `plm_core.utils.ray_cluster.ray_cluster`. Each worker loads the
            model by its name, and reads the videos at the same paths.

    Raises:
        InputError: The data are faulty, an argument is not allowed, or ``out`` holds answers of another run.
        PluginError: The model does not give one text for each request.
        MissingDependency: PyAV or Ray is not installed.
        FileError: ``out`` cannot be written. What was answered before is kept.
    """
    settings = settings or RunSettings()
    for name, value in (
        ("limit", 1 if limit is None else limit),
        ("batch_size", batch_size),
        ("frames", settings.frames),
    ):
        if not whole(value):
            raise InputError(f"{name} {value!r} is not allowed: a whole number from 1 is")
    if isinstance(model, str):
        model = AnswererName(name=model)
    if ray and not isinstance(model, AnswererName):
        raise InputError(f"model is a {type(model).__name__}; with ray it must be a name, by which workers load it")
    words = prompts or load_prompts(settings.prompts)
    rows = open_data(data, settings.split, tasks)
    subjects = Subjects(data, settings.split)
    subjects.check(rows.values())
    folder = Path(videos) if videos is not None else Path(data) / "videos"
    if not folder.is_dir():
        raise InputError(f"videos {str(folder)!r} is not a folder")
    asking = _Asking(folder, settings, words, subjects)
    target = Path(out)
    with only_writer(target):
        facts = {"model": model.name, "prompts": words.name, "split": settings.split, "frames": settings.frames}
        _check_same_run(target, facts | ({"dtype": model.dtype} if isinstance(model, AnswererName) else {}))
        files = {name: Records(target / f"{name}.jsonl") for name in rows}
        open_rows = {name: _unanswered(part, files[name], limit) for name, part in rows.items()}
        resumed = {name: sum("prediction" in row for row in file.rows.values()) for name, file in files.items()}
        report = RunReport(target, dict.fromkeys(rows, 0), resumed)
        questions = asking.questions(rows, open_rows)
        with progress_bar("answering", sum(map(len, open_rows.values()))) as advance:
            for answer in _answers(model, questions, batch_size, ray):
                if answer.error is not None:
                    report.unreadable[f"{answer.task} {answer.uid}"] = answer.error
                    files[answer.task].add({"uid": answer.uid, "error": answer.error})
                else:
                    report.answered[answer.task] += 1
                    files[answer.task].add({"uid": answer.uid, "prediction": answer.text})
                advance(1)
    return report


def _unanswered(part: TaskRows, file: Records, limit: int | None) -> list[str]:
    return [uid for uid in list(part.rows)[:limit] if "prediction" not in file.rows.get(uid, {})]


def _check_same_run(out: Path, facts: dict[str, Any]) -> None:
    """Write what the answers depend on, or compare it with what is there."""
    file = out / RUN
    if file.exists():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise InputError(f"{str(file)!r} cannot be read ({first_line(e)}): name another folder") from e
        different = [name for name, value in facts.items() if not isinstance(before, dict) or before.get(name) != value]
        if different:
            name = different[0]
            value = before.get(name) if isinstance(before, dict) else before
            raise InputError(
                f"out {str(out)!r} holds answers of another run ({name} {value!r}, now {facts[name]!r}): name another "
                "folder"
            )
        return
    write_text(file, json.dumps(facts, indent=2) + "\n")


@dataclass(frozen=True)
class _Asking:
    """Makes questions of rows."""

    videos: Path
    settings: RunSettings
    prompts: Prompts
    subjects: Subjects

    def questions(self, rows: dict[str, TaskRows], unanswered: dict[str, list[str]]) -> Iterator[Question | Answer]:
        """Yield the question of each row, or the row and why there is none."""
        for name, uids in unanswered.items():
            for uid in uids:
                try:
                    yield self._question(rows[name].task, rows[name].rows[uid])
                except InputError as e:
                    yield Answer(name, uid, error=first_line(e))

    def _question(self, task: Task, row: Row) -> Question:
        return Question(
            task=task.name,
            uid=row["uid"],
            prompt=self.prompts.question(task.name, row, self.settings.frames),
            video=find_video([self.videos], task, row["video"]),
            frames=self.settings.frames,
            max_new_tokens=task.max_new_tokens,
            region=task.region,
            boxes=self.subjects.boxes(row) if task.region else {},
        )


def _answers(
    model: Answerer | AnswererName, questions: Iterator[Question | Answer], batch_size: int, ray: str | None
) -> Iterator[Answer]:
    """Yield the answers, or why there are none, in the order in which they are finished."""
    if ray is not None:
        assert isinstance(model, AnswererName)
        from plm_core.videobench.ray_backend import answer_on_ray

        yield from answer_on_ray(model, questions, batch_size, ray)
        return
    answerer = model.load() if isinstance(model, AnswererName) else model
    for batch in _read_ahead(questions, batch_size):
        yield from answer_all(answerer, batch)


def _read_ahead(questions: Iterator[Question | Answer], size: int) -> Iterator[list[Request | Answer]]:
    """Yield batches with their frames. The next one is read by a thread while the model answers one."""
    with ThreadPoolExecutor(1) as pool:
        ahead: Future[list[Request | Answer]] | None = None
        while batch := list(islice(questions, size)):
            following = pool.submit(read_all, batch)
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()
