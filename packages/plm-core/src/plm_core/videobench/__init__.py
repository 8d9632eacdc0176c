"""PLM-VideoBench (arXiv 2504.13180, section 5.1): five tasks on videos, their metrics and the running of them.

    from plm_core import videobench

    videobench.run(model, "PLM-VideoBench", "answers")              # one file of answers for each task
    videobench.score("answers", "PLM-VideoBench", judge).rows()     # per task and in total, with intervals

    metrics.py      the five metrics and the total; parsing.py reads answers and replies for them
    tasks.py        the tasks as data; data.py reads their files, frames.py their videos
    prompts.py      what models and judges are asked
    answering.py    `Answerer`, what a model must offer; running.py asks it, ray_backend.py on a cluster
    judge.py        judges: an endpoint, a local model, a comparison of words; judging.py asks them
    scoring.py      scores of any model's predictions
    records.py      files that grow by a row at a time
    lmms_eval.py    a model for lmms-eval that is answered by an `Answerer`

The names below are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from plm_core.videobench import metrics
    from plm_core.videobench.answering import Answerer, AnswererName, Request
    from plm_core.videobench.judge import Case, EndpointJudge, Judge, JudgeError, LocalJudge, StringJudge
    from plm_core.videobench.running import RunReport, RunSettings, run
    from plm_core.videobench.scoring import Scores, TaskScore, score
    from plm_core.videobench.tasks import TASKS, Task

_LAZY = {
    "Answerer": "plm_core.videobench.answering",
    "AnswererName": "plm_core.videobench.answering",
    "Case": "plm_core.videobench.judge",
    "EndpointJudge": "plm_core.videobench.judge",
    "Judge": "plm_core.videobench.judge",
    "JudgeError": "plm_core.videobench.judge",
    "LocalJudge": "plm_core.videobench.judge",
    "Request": "plm_core.videobench.answering",
    "RunReport": "plm_core.videobench.running",
    "RunSettings": "plm_core.videobench.running",
    "Scores": "plm_core.videobench.scoring",
    "StringJudge": "plm_core.videobench.judge",
    "TASKS": "plm_core.videobench.tasks",
    "Task": "plm_core.videobench.tasks",
    "TaskScore": "plm_core.videobench.scoring",
    "metrics": "",
    "run": "plm_core.videobench.running",
    "score": "plm_core.videobench.scoring",
}

__all__ = [
    "TASKS",
    "Answerer",
    "AnswererName",
    "Case",
    "EndpointJudge",
    "Judge",
    "JudgeError",
    "LocalJudge",
    "Request",
    "RunReport",
    "RunSettings",
    "Scores",
    "StringJudge",
    "Task",
    "TaskScore",
    "metrics",
    "run",
    "score",
]

__getattr__, __dir__ = attributes(__name__, "plm-core", _LAZY)
