"""The recipe ``finetune``: any classifier of images or clips, on a folder or a dataset of Hugging Face.

`train_classifier` is the function of every recipe that trains a classifier; what differs are the presets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from plm_core.datasets import Pictures, Splits, digest, load_splits
from plm_core.errors import InputError
from plm_core.hookspecs import Input
from plm_core.models import input_of, transform_for
from plm_core.runs.job import Job, Trained
from plm_core.runs.request import begin
from plm_core.training import Recipe, TrainResult
from plm_core.training.finetuning import FinetuneConfig, accuracy, finetune, finetune_transform
from plm_core.transforms import apply_all, remove

EVAL_BATCH = 64


def _mae(epochs: int, layer_decay: float, drop_path: float) -> FinetuneConfig:
    """Return the finetuning of masked autoencoders (arXiv 2111.06377, table 9): a base rate of 1e-3 for 256 images."""
    recipe = Recipe(
        epochs=epochs, batch_size=1024, lr=4e-3, weight_decay=0.05, warmup_epochs=5, layer_decay=layer_decay
    )
    return FinetuneConfig(recipe=recipe, drop_path=drop_path)


PRESETS: dict[str, FinetuneConfig] = {
    # Our own, for a pretrained model and a few thousand images: it keeps what was learned (low rates below), and leaves
    # out what any model may lack (drop path) or what drowns a small training in noise (mixup, cutmix).
    "default": FinetuneConfig(
        recipe=Recipe(
            epochs=20, batch_size=64, lr=5e-4, weight_decay=0.05, warmup_epochs=2, layer_decay=0.75, clip_grad=1.0
        ),
        drop_path=0.0,
        mixup=0.0,
        cutmix=0.0,
        scale=(0.35, 1.0),
    ),
    "micro": FinetuneConfig.plain(
        Recipe(epochs=20, batch_size=64, lr=1e-3, weight_decay=0.05, warmup_epochs=2, clip_grad=1.0), scale=(0.6, 1.0)
    ),
    # The training of DeiT (arXiv 2012.12877, table 9), from scratch: a base rate of 5e-4 for 512 images.
    "deit": FinetuneConfig(
        recipe=Recipe(epochs=300, batch_size=1024, lr=1e-3, weight_decay=0.05, warmup_epochs=5), drop_path=0.1
    ),
    "mae_base": _mae(100, 0.65, 0.1),
    "mae_large": _mae(50, 0.75, 0.2),
    "mae_huge": _mae(50, 0.75, 0.3),
}
"""Settings of the recipe ``finetune``: our own default, and those of papers."""


OpenSplit = Callable[[str, Callable[[Any], Any], Input], Dataset[Any]]
"""A function (split "train" or "val", preprocessing of an image, input of the model) -> a dataset of (input, class)."""


def train_classifier(job: Job, training: Callable[..., TrainResult] | None = None) -> Trained | None:
    """Train a classifier of images, and score it on the held-out images.

    Args:
        job: What was asked for.
        training: A training with the arguments of `plm_core.training.finetuning.finetune`; None for that.
    """
    splits = load_splits(job.data, seed=job.seed, skip_unreadable=job.skip_unreadable)
    if splits.train.labels.ndim > 1:
        raise InputError(f"data {job.data!r} has several labels for an image; recipe {job.recipe!r} takes one")

    def open_split(split: str, preprocess: Callable[[Any], Any], spec: Input) -> Dataset[Any]:
        if spec.frames is not None:
            raise InputError(f"model {job.model!r} takes clips; recipe {job.recipe!r} trains on images")
        return Pictures(getattr(splits, split), preprocess)

    return _train(job, splits, open_split, training or finetune)


def train_video_classifier(job: Job) -> Trained | None:
    """Train a classifier of clips on videos, and score it on the middle of the held-out videos.

    A config that is a `plm_core.video.ClipSettings` too says how clips are taken.
    """
    from plm_core.video import (
        ClipSettings,
        open_clips,
        per_clip,
    )  # here, so that a recipe for images need not import them

    splits = load_splits(job.data, seed=job.seed, skip_unreadable=job.skip_unreadable)

    def open_split(split: str, preprocess: Callable[[Any], Any], spec: Input) -> Dataset[Any]:
        if spec.frames is None:
            raise InputError(f"model {job.model!r} takes images; recipe {job.recipe!r} trains on videos")
        sampling = job.config if isinstance(job.config, ClipSettings) else ClipSettings()
        return open_clips(getattr(splits, split), spec, sampling, per_clip(preprocess), split == "train")

    return _train(job, splits, open_split, finetune)


def _found(splits: Splits) -> str:
    """Say what the data are, for the model card."""
    train = splits.train
    counts = f"{len(train)} {train.kind} of {len(train.classes)} classes"
    if left_out := _left_out(splits):
        counts += f", {len(left_out)} unreadable ones left out"
    return f"{counts} (digest {digest(train)[:12]}); scored on {splits.note}"


def _left_out(splits: Splits) -> list[str]:
    """Return the names of the images or videos that were left out, in the order of the splits, each once."""
    return list(dict.fromkeys([*splits.train.left_out, *splits.val.left_out]))


def _train(job: Job, splits: Splits, open_split: OpenSplit, training: Callable[..., TrainResult]) -> Trained | None:
    found = _found(splits)
    job.facts.update(left_out=_left_out(splits), data_digest=digest(splits.train))
    begin(job, found)
    config: FinetuneConfig = job.config_for(len(splits.train))
    num_classes = len(splits.train.classes)
    # some models of timm take neither, so a rate of 0 is not passed on
    rates: dict[str, Any] = {"drop_path_rate": config.drop_path, "drop_rate": config.dropout}
    rates = {name: rate for name, rate in rates.items() if rate}
    model = job.create(labels=splits.train.classes, num_classes=num_classes, **rates)
    spec = input_of(model)
    job.check_classifier(model, spec, num_classes)
    preprocess = finetune_transform(spec.size[1:], config, spec.mean, spec.std, spec.size[0])
    train = open_split("train", preprocess, spec)
    val = open_split("val", transform_for(model), spec)
    top1 = f"{splits.name} top-1 %"
    merged = f"{top1} with {' '.join(job.transforms)}" if job.transforms else top1

    def score(model: nn.Module, name: str = merged) -> dict[str, float]:
        return {name: accuracy(model, val, batch_size=EVAL_BATCH, num_workers=job.num_workers)}

    result = training(model, train, config, num_classes, evaluate=score, **job.options)
    if not result.main:
        return None
    model = job.rebuild(result.state, num_classes=num_classes)
    scores = score(model, top1)
    if job.transforms:
        scores |= score(apply_all(model, job.transforms))
        remove(model)
    return Trained(model=model, labels=splits.train.classes, scores=scores, history=result.history, data=found)
