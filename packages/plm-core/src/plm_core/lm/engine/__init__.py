"""The synthetic data engine: captions of images and videos, and questions about them, that models write.

    model = LocalModel("plm_1b")
    report = make(["videos/"], "data.jsonl", captioner=model.caption, video_captioner=model.caption)

    scenes.py       `split`: a video as clips of about 30 seconds with key frames
    workers.py      `LocalModel`, `PipelineModel`: captioners and writers on this machine, and the contract of any other
    endpoint.py     `Endpoint`: one behind an address that speaks OpenAI's chat completions
    prompts.py      `Prompts`: what they are asked; and how replies are read
    making.py       the work on one item, step by step
    journal.py      the steps that are finished, kept for a later run
    rows.py         steps as rows of data
    running.py      `make`: all of it, for many files
    ray_backend.py  the same on a Ray cluster

The names below are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from plm_core.lm.engine.endpoint import Endpoint
    from plm_core.lm.engine.prompts import Prompts
    from plm_core.lm.engine.running import Report, make
    from plm_core.lm.engine.scenes import Scene, SceneSettings, split
    from plm_core.lm.engine.workers import LocalModel, PipelineModel, WorkerError

__all__ = [
    "Endpoint",
    "LocalModel",
    "PipelineModel",
    "Prompts",
    "Report",
    "Scene",
    "SceneSettings",
    "WorkerError",
    "make",
    "split",
]

__getattr__, __dir__ = attributes(
    __name__,
    "plm-core",
    {
        "Endpoint": "plm_core.lm.engine.endpoint",
        "LocalModel": "plm_core.lm.engine.workers",
        "PipelineModel": "plm_core.lm.engine.workers",
        "Prompts": "plm_core.lm.engine.prompts",
        "Report": "plm_core.lm.engine.running",
        "Scene": "plm_core.lm.engine.scenes",
        "SceneSettings": "plm_core.lm.engine.scenes",
        "WorkerError": "plm_core.lm.engine.workers",
        "make": "plm_core.lm.engine.running",
        "split": "plm_core.lm.engine.scenes",
    },
)
