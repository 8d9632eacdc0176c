"""The recipe ``pe-video``: both towers on videos with captions (arXiv 2504.13181, section 2.2).

A video is the mean of the embeddings of some frames, and the loss is that of images.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from pe_encoder.media import frame_numbers, read_frames
from pe_encoder.recipes.contrastive import train_and_score, train_contrastive
from pe_encoder.recipes.pairs import Augment, create_clip, open_splits, pairs
from pe_encoder.recipes.tables import VideoConfig
from plm_core import InputError, transform_for
from plm_core.models import input_of
from plm_core.runs import Job, Trained
from plm_core.video import Video, per_clip


class AugmentedFrames:
    """A function from a video to its frames, float [frames, 3, H, W], with one draw of an augmentation for all.

    Args:
        frames: Frames of a video, see `pe_encoder.media.frame_numbers`.
        augment: The augmentation: a function from a PIL image to float [3, H, W].
    """

    def __init__(self, frames: int, augment: Callable[[Any], Tensor]) -> None:
        self.frames = frames
        self.augment = per_clip(augment)

    def __call__(self, video: Video) -> Tensor:
        """Read and augment the frames of a video."""
        return self.augment(video.read(frame_numbers(len(video), self.frames))).transpose(0, 1)


def run(job: Job) -> Trained | None:
    """Train both towers on videos with captions, as ``plm train pe-video`` does."""
    splits, found = open_splits(job, "videos")
    config: VideoConfig = job.config_for(len(splits.train))
    clip = create_clip(job, drop_path_rate=config.drop_path)
    if config.stages:
        raise InputError(f"stages {config.stages} is not for recipe {job.recipe!r}: frames have the model's own size")
    train = pairs(splits.train, AugmentedFrames(config.frames, Augment(config, input_of(clip))))
    preprocess = partial(read_frames, frames=config.frames, preprocess=transform_for(clip))
    val = pairs(splits.val, preprocess, training=False)
    return train_and_score(job, clip, train, val, partial(train_contrastive, config=config), splits.name, found)
