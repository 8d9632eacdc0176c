"""The scores of predictions, ours or those of any other model, with intervals, per task and in total."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plm_core.errors import InputError
from plm_core.utils.files import write_text
from plm_core.utils.ranges import whole
from plm_core.utils.text import shown
from plm_core.videobench import metrics
from plm_core.videobench.data import Row, TaskRows, open_data
from plm_core.videobench.judge import Judge, StringJudge
from plm_core.videobench.judging import Judged, judge_all, understood
from plm_core.videobench.parsing import FRAMES, caption_score, dense_pieces
from plm_core.videobench.records import RUN, Records, only_writer
from plm_core.videobench.tasks import TASKS, Task

RESAMPLES = 1000
CONFIDENCE = 0.95
CHUNK = 2**22
"""The most numbers that a bootstrap holds at a time."""
SCORES = "scores.json"


@dataclass(frozen=True)
class TaskScore:
    """The score of one task, in percent as in the published tables.

    Attributes:
        task: Name of the task.
        score: The score.
        low: The lower end of its bootstrap interval.
        high: The upper end.
        rows: Rows that were scored.
        questions: What the interval draws from: questions of FGQA, else rows.
        missing: Rows without a prediction, which are not in the score.
        understood: Share of answers, or of the judge's replies, that could be parsed.
        judge: The judge; None for a metric without one.
        failed: By row, why the judge's reply is missing or nonsense. The row counts as the protocol says for nonsense.
    """

    task: str
    score: float
    low: float
    high: float
    rows: int
    questions: int
    missing: int
    understood: float
    judge: str | None = None
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """The scores of predictions.

    Attributes:
        tasks: The tasks by name.
        total: The published average of all five tasks, in percent, and the ends of its interval; None if one is
            missing. It is not the plain mean; see `plm_core.videobench.metrics.total`.
        frames: The number of frames that the model saw.
        split: The part of the data.
        run: What ``run.json`` beside the predictions says of the model; empty if there is none.
    """

    tasks: dict[str, TaskScore]
    total: tuple[float, float, float] | None
    frames: int
    split: str
    run: dict[str, Any] = field(default_factory=dict)

    @property
    def unjudged(self) -> int:
        """The number of rows with a reply that is missing or nonsense."""
        return sum(len(task.failed) for task in self.tasks.values())

    def rows(self) -> list[dict[str, Any]]:
        """Return the table that ``plm videobench score`` prints."""
        table = [
            {
                "task": TASKS[name].title,
                "score": round(task.score, 1),
                "low": round(task.low, 1),
                "high": round(task.high, 1),
                "rows": task.rows,
                "missing": task.missing,
                "understood": round(task.understood, 3),
                "judge": task.judge,
            }
            for name, task in self.tasks.items()
        ]
        if self.total is not None:
            score, low, high = (round(value, 1) for value in self.total)
            blank = dict.fromkeys(("rows", "missing", "understood", "judge"))
            table.append({"task": "total", "score": score, "low": low, "high": high, **blank})
        return table

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as ``scores.json`` holds it."""
        total = None if self.total is None else dict(zip(("score", "low", "high"), self.total, strict=True))
        return {
            "benchmark": "PLM-VideoBench",
            "split": self.split,
            "frames": self.frames,
            "run": self.run,
            "confidence": CONFIDENCE,
            "total": total,
            "tasks": {name: asdict(task) for name, task in self.tasks.items()},
        }


def score(
    predictions: str | Path,
    data: str | Path,
    judge: Judge | None = None,
    *,
    tasks: Sequence[str] | None = None,
    split: str | None = None,
    frames: int | None = None,
    partial: bool = False,
    out: str | Path | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Scores:
    """Score predictions.

    The replies of the judge and ``scores.json`` are written to ``out``. The same call goes on after a kill, and asks
    again what the judge did not answer.

    Args:
        predictions: A folder with a file ``TASK.jsonl`` for each task, or the file of one task by that name. A line has
            the ``uid`` of a row and ``prediction``.
        data: The folder of the data; see `plm_core.videobench.data`.
        judge: The judge; by default a comparison of words, which is no language model.
        tasks: Names of tasks; None for those that have predictions.
        split: The part of the data; by default that of ``run.json`` beside the predictions, else ``test``.
        frames: The number of frames that the model saw of each video; by default that of ``run.json``, else 32.
        partial: Whether rows may lack a prediction. They are not in the score then.
        out: The folder to write; by default that of the predictions.
        resamples: Number of bootstrap samples for the intervals.
        seed: Random seed of the bootstrap.

    Raises:
        InputError: The data or the predictions are faulty, a prediction is for a row that the data do not have, rows
            lack a prediction, or the judge refuses to answer.
        FileError: ``out`` cannot be written.
    """
    files = _prediction_files(Path(predictions), tasks)
    facts = _run_facts(next(iter(files.values())).parent / RUN)
    split, frames = split or facts.get("split", "test"), frames or facts.get("frames", FRAMES)
    for name, value in (("frames", frames), ("resamples", resamples)):
        if not whole(value):
            raise InputError(f"{name} {value!r} is not allowed: a whole number from 1 is")
    rows = open_data(data, split, list(files))
    answers = {name: _answers(files[name], part, partial) for name, part in rows.items()}
    folder = Path(out) if out is not None else next(iter(files.values())).parent
    judge = judge or StringJudge()
    rng = np.random.default_rng(seed)
    scored: dict[str, TaskScore] = {}
    resampled: dict[str, NDArray[np.float64]] = {}
    with only_writer(folder):
        for name, part in rows.items():
            metric, judged = _metric(part.task, answers[name], judge, folder, frames)
            means = bootstrap(metric.values, resamples, rng)
            low, high = _interval(means)
            resampled[name] = means
            scored[name] = TaskScore(
                task=name,
                score=100 * metric.score,
                low=100 * low,
                high=100 * high,
                rows=len(answers[name]),
                questions=len(metric.values),
                missing=len(part.rows) - len(answers[name]),
                understood=metric.understood,
                judge=judge.name if part.task.judged else None,
                failed=judged.failed,
            )
        scores = Scores(scored, _total(scored, resampled), frames, split, facts)
        write_text(folder / SCORES, json.dumps(scores.as_dict(), indent=2) + "\n")
    return scores


def _run_facts(file: Path) -> dict[str, Any]:
    """Return what `plm_core.videobench.running.run` wrote of a run; nothing for predictions from elsewhere."""
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _prediction_files(path: Path, tasks: Sequence[str] | None) -> dict[str, Path]:
    if path.is_dir():
        files = {name: path / f"{name}.jsonl" for name in TASKS}
    else:
        if path.stem not in TASKS or path.suffix != ".jsonl":
            raise InputError(f"predictions {str(path)!r} is no folder and no file TASK.jsonl of {', '.join(TASKS)}")
        files = {path.stem: path}
    present = {name: file for name, file in files.items() if file.is_file() and (tasks is None or name in tasks)}
    absent = [name for name in tasks or () if name not in present]
    if absent or not present:
        expected = ", ".join(f"{name}.jsonl" for name in absent or TASKS)
        raise InputError(f"predictions {str(path)!r} has no {expected}")
    return present


def _answers(file: Path, part: TaskRows, partial: bool) -> list[tuple[Row, str]]:
    """Return the rows that have a prediction, with it."""
    records = Records(file).rows
    strangers = [uid for uid in records if uid not in part.rows]
    if strangers:
        raise InputError(
            f"predictions {str(file)!r} has {len(strangers)} rows that {str(part.file)!r} lacks, such as uid "
            f"{shown(strangers[0])!r}: is it another split or revision?"
        )
    predictions = {uid: row.get("prediction") for uid, row in records.items()}
    for uid, prediction in predictions.items():
        if prediction is not None and not isinstance(prediction, str):
            raise InputError(f"predictions {str(file)!r}: prediction of uid {shown(uid)!r} is no text")
    missing = [uid for uid in part.rows if predictions.get(uid) is None]
    if missing and (not partial or len(missing) == len(part.rows)):
        raise InputError(
            f"predictions {str(file)!r} lacks {len(missing)} of {len(part.rows)} rows, such as uid "
            f"{shown(missing[0])!r}" + ("; --partial scores the others" if len(missing) < len(part.rows) else "")
        )
    return [(row, prediction) for uid, row in part.rows.items() if (prediction := predictions.get(uid)) is not None]


def _metric(
    task: Task, answers: Sequence[tuple[Row, str]], judge: Judge, folder: Path, frames: int
) -> tuple[metrics.Metric, Judged]:
    rows, predictions = [row for row, _ in answers], [prediction for _, prediction in answers]
    if task.name == "fgqa":
        return metrics.fgqa(predictions, rows), Judged()
    if task.name == "rtloc":
        return metrics.rtloc(predictions, rows, frames), Judged()
    judged = judge_all(task, answers, judge, folder)
    replies = [judged.replies[row["uid"]] for row in rows]
    if task.name == "rdcap":
        given = [_matrix(row, text, part) for row, text, part in zip(rows, predictions, replies, strict=True)]
        metric = metrics.rdcap(predictions, rows, given, frames)
        for sample, part in zip(metric.samples, replies, strict=True):
            sample["parsed"] = sample["parsed"] and all(understood(task, reply) for reply in part)
        return metric, judged
    single = [reply or "" for [reply] in replies]  # a reply that is missing counts like nonsense
    return (metrics.sgqa if task.name == "sgqa" else metrics.rcap)(single), judged


def _matrix(row: Row, prediction: str, replies: Sequence[str | None]) -> NDArray[np.float64]:
    scores = np.array([caption_score(reply or "") or 0.0 for reply in replies], dtype=np.float64)
    return scores.reshape(len(row["dense_captions"]), len(dense_pieces(prediction)))


def bootstrap(values: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the means of samples that are drawn with replacement, float64 [resamples]."""
    size = len(values)
    step = max(CHUNK // size, 1)
    means = [
        values[rng.integers(size, size=(min(step, resamples - start), size))].mean(axis=1)
        for start in range(0, resamples, step)
    ]
    return np.concatenate(means)


def _interval(means: NDArray[np.float64]) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _total(
    scored: Mapping[str, TaskScore], resampled: Mapping[str, NDArray[np.float64]]
) -> tuple[float, float, float] | None:
    """Return the total and its interval, in percent. The tasks are drawn independently of each other."""
    if set(scored) != set(TASKS):
        return None
    regions = np.mean([resampled[name] for name in metrics.REGIONS], axis=0)
    low, high = _interval(100 * np.mean([resampled["fgqa"], resampled["sgqa"], regions], axis=0))
    return metrics.total({name: task.score for name, task in scored.items()}), low, high
