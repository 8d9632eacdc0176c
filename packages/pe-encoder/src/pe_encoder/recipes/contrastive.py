"""The recipe ``pe-contrastive``: both towers on images with captions (arXiv 2504.13181, section 2.1)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from pe_encoder.clip import CLIP
from pe_encoder.recipes import losses, resolution
from pe_encoder.recipes.pairs import Augment, collate, create_clip, open_splits, pairs
from pe_encoder.recipes.scoring import retrieval
from pe_encoder.recipes.tables import ContrastiveConfig
from pe_encoder.recipes.towers import Towers, finish
from plm_core import InputError, transform_for
from plm_core.models import input_of
from plm_core.runs import Job, Trained
from plm_core.training import Recipe, TrainResult, fit


def train_contrastive(clip: CLIP, data: Dataset[Any], config: ContrastiveConfig, **options: Any) -> TrainResult:
    """Train a CLIP in place by the contrastive loss over the batch of all processes.

    Args:
        clip: The CLIP. For a rate of dropped paths create it with ``drop_path_rate``.
        data: A dataset of (image or frames of a video, caption), preprocessed at the size of the vision tower.
        config: The settings.
        **options: Keywords of `plm_core.training.fit`. The model that ``evaluate`` gets is a
            `pe_encoder.recipes.towers.Towers`.

    Returns:
        The result of `fit`, with the state dict of the CLIP. The history has both parts of the loss.

    Raises:
        InputError: The stages do not fit the tower, gradients would be accumulated, or as `fit` does.
    """
    from plm_core.training.callbacks import Progress

    resolution.check_stages(config.stages, clip.visual)
    towers = Towers(clip, config.max_scale, config.mask_share, config.mask_ratio, config.chunk_size)
    progress = Progress()

    def loss(model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        media, ids = batch
        if config.stages:
            media = resolution.resize(media, resolution.size_at(config.stages, progress.share))
        outputs = model(media, ids)
        parts = {"contrastive": losses.contrastive(outputs.media, outputs.texts, outputs.scale)}
        if config.mask_share:
            parts["masked"] = outputs.distance
        return parts["contrastive"] + config.mask_weight * outputs.distance, parts

    options["callbacks"] = [progress, *options.get("callbacks", ())]
    return fit_towers(clip, towers, data, loss, config.recipe, **options)


def fit_towers(
    clip: CLIP,
    towers: Towers,
    data: Dataset[Any],
    loss: Callable[[nn.Module, Any], Any],
    recipe: Recipe,
    **options: Any,
) -> TrainResult:
    """Call `plm_core.training.fit` on the towers of a CLIP, and return the result with the CLIP's state dict.

    Args:
        clip: The CLIP.
        towers: Its towers.
        data: As for `train_contrastive`.
        loss: A loss of the towers.
        recipe: The optimisation.
        **options: Keywords of `fit`.
    """
    from plm_core.training.callbacks import AfterStep

    check_whole_batch(recipe, options.get("per_device_batch_size"))
    options["callbacks"] = [AfterStep(towers.limit_scale), *options.get("callbacks", ())]
    options.setdefault("collate", collate(clip))
    return finish(clip, fit(towers, data, loss, recipe, **options))


def check_whole_batch(recipe: Recipe, per_device_batch_size: int | None) -> None:
    """Raise an InputError if a batch is too small to compare, or is compared in parts as gradients are accumulated."""
    if recipe.batch_size < 2:
        raise InputError(f"batch_size is {recipe.batch_size}; a contrastive loss needs at least 2 pairs")
    share = recipe.batch_size // int(os.environ.get("WORLD_SIZE", "1"))
    if per_device_batch_size is not None and per_device_batch_size < share:
        raise InputError(
            f"per_device_batch_size {per_device_batch_size} is less than a process's share of the batch, {share}: the "
            "loss compares all pairs of a batch, so gradients cannot be accumulated; the setting chunk_size limits "
            "what is encoded at once"
        )


def run(job: Job) -> Trained | None:
    """Train both towers on images with captions, as ``plm train pe-contrastive`` does."""
    splits, found = open_splits(job, "images")
    config: ContrastiveConfig = job.config_for(len(splits.train))
    clip = create_clip(job, drop_path_rate=config.drop_path)
    resolution.check_stages(config.stages, clip.visual)
    if config.stages and not job.pretrained and job.weights is None:
        resolution.smooth(clip.visual, config.stages[0][1])
    train = pairs(splits.train, Augment(config, input_of(clip)))
    val = pairs(splits.val, transform_for(clip), training=False)
    return train_and_score(job, clip, train, val, partial(train_contrastive, config=config), splits.name, found)


def train_and_score(
    job: Job,
    clip: CLIP,
    train: Dataset[Any],
    val: Dataset[Any],
    training: Callable[..., TrainResult],
    part: str,
    found: str,
) -> Trained | None:
    """Run a training of a CLIP, and score retrieval among held-out pairs during it and after it.

    Args:
        job: What was asked for.
        clip: The model.
        train: The pairs to train on.
        val: The pairs to score.
        training: A function (clip, data, **options of fit) that trains the model in place.
        part: The name of the held-out part.
        found: The data in words.

    Returns:
        What the recipe returns; None in a process that is not the main one.
    """
    batch = collate(clip)

    def score(towers: Any) -> dict[str, float]:
        return retrieval(towers, val, batch, part, job.num_workers)

    result = training(clip, train, evaluate=score, **job.options)
    if not result.main:
        return None
    model: Any = job.rebuild(result.state)
    return Trained(model=model, scores=score(Towers(model).eval()), history=result.history, data=found)
