"""The recipes ``gaze-follow`` and ``gaze-vat``: from GazeFollow or VideoAttentionTarget to a model folder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from gazelle.data import Annotations, PersonSamples, read_gazefollow, read_vat
from gazelle.estimation import preprocess_of
from gazelle.evaluation import WORDS, evaluate
from gazelle.recipes.starting import create
from gazelle.recipes.tables import GazeConfig
from gazelle.recipes.training import Looker, train_gaze
from plm_core.runs import Job, Trained, begin


def follow(job: Job) -> Trained | None:
    """Train a decoder on GazeFollow, and score it on the test split after each epoch."""
    train, test = (read_gazefollow(job.data, split, job.skip_unreadable) for split in ("train", "test"))
    return _run(job, train, test, "gazefollow")


def video(job: Job) -> Trained | None:
    """Train a model from GazeFollow further on VideoAttentionTarget, and score it likewise after each epoch."""
    train, test = (read_vat(job.data, split, job.skip_unreadable) for split in ("train", "test"))
    config: GazeConfig = job.config
    return _run(job, train.every(config.step), test, "vat")


def _run(job: Job, train: Annotations, test: Annotations, benchmark: str) -> Trained | None:
    inside_only = job.config.inout_lr is None
    people = sum(
        1 for scene in train.scenes for p in scene.people if p.inout == 1 or (p.inout == 0 and not inside_only)
    )
    found = f"{people} people in {len(train)} pictures, {test.people} in {len(test)} held-out ones"
    begin(job, found)
    config: GazeConfig = job.config_for(people)
    model = create(replace(job, config=config), decoder=benchmark == "vat")
    preprocess = preprocess_of(model)
    data = PersonSamples(train, preprocess, model.out_size, augmented=config.augmented, inside_only=inside_only)

    def score(looker: nn.Module) -> dict[str, float]:
        scores = evaluate(looker, test, preprocess, benchmark, num_workers=job.num_workers)
        return {f"test {WORDS[name]}": value for name, value in scores.items()}

    result = train_gaze(model, data, config, evaluate=score, **job.options)
    if not result.main:
        return None
    trained: Any = job.rebuild(result.state)
    return Trained(model=trained, scores=score(Looker(trained).eval()), history=result.history, data=found)
