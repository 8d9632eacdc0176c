"""Captions as data for trainings: what a source holds, the augmentation of images, and batches with token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from timm.data import create_transform
from torch import Tensor

from pe_encoder.clip import CLIP
from plm_core import InputError
from plm_core.datasets.captions import CaptionPairs, Captions, CaptionSplits, load_caption_splits
from plm_core.hookspecs import Input
from plm_core.runs import Job, begin
from plm_core.utils.images import Channels


def open_splits(job: Job, kind: str) -> tuple[CaptionSplits, str]:
    """Return the captions to train on and to judge by, and the data in words.

    Args:
        job: The job, which notes what was found.
        kind: ``images`` or ``videos``.

    Raises:
        InputError: The data hold the other kind, or cannot be read.
    """
    splits = load_caption_splits(job.data, seed=job.seed, skip_unreadable=job.skip_unreadable)
    train = splits.train
    if train.kind != kind:
        raise InputError(f"data {job.data!r} holds {train.kind} with captions; recipe {job.recipe!r} takes {kind}")
    found = f"{len(train)} {kind} with {len(train.texts)} captions"
    left_out = list(dict.fromkeys([*train.left_out, *splits.val.left_out]))
    found += f", {len(left_out)} unreadable ones left out" if left_out else ""
    found += f" (digest {train.digest()[:12]}); scored on {splits.note}"
    job.facts.update(left_out=left_out, data_digest=train.digest())
    begin(job, found)
    return splits, found


def create_clip(job: Job, **keywords: Any) -> CLIP:
    """Return the model of a job, with its starting weights.

    Args:
        job: The job.
        **keywords: Keywords of the model. A rate of 0 is not passed on.

    Raises:
        InputError: It is no CLIP.
    """
    model = job.create(**{name: value for name, value in keywords.items() if value})
    if not isinstance(model, CLIP):
        raise InputError(f"model {job.model!r} is a {type(model).__name__}; recipe {job.recipe!r} trains a CLIP")
    return model


class Augmentation(Protocol):
    """The fields of a configuration that say how images are augmented, see `ContrastiveConfig`."""

    @property
    def scale(self) -> tuple[float, float]:
        """Smallest and largest area of a random crop."""

    @property
    def ratio(self) -> tuple[float, float]:
        """Smallest and largest ratio of width to height of a random crop."""

    @property
    def brightness(self) -> float:
        """The most that a factor of the brightness differs from 1."""

    @property
    def saturation(self) -> float:
        """The most that a factor of the saturation differs from 1."""

    @property
    def hflip(self) -> float:
        """Probability of a horizontal flip."""


class Augment:
    """The augmentation of a training: a function from a PIL image of any mode to float [3, height, width].

    It crops at random, changes brightness and saturation, flips, and normalises.

    Args:
        config: How much.
        spec: Input of the model.
    """

    def __init__(self, config: Augmentation, spec: Input) -> None:
        self.channels = Channels(spec.size[0])
        self.augment = create_transform(
            spec.size,
            is_training=True,
            scale=config.scale,
            ratio=config.ratio,
            hflip=config.hflip,
            color_jitter=(config.brightness, 0.0, config.saturation, 0.0),
            interpolation=spec.interpolation,
            mean=spec.mean,
            std=spec.std,
        )

    def __call__(self, image: Any) -> Tensor:
        """Augment an image."""
        augmented: Tensor = self.augment(self.channels(image))
        return augmented


def collate(clip: CLIP) -> Callable[[Sequence[tuple[Any, str]]], tuple[Tensor, Tensor]]:
    """Return the function that makes a batch of samples: the stacked inputs, and the token ids int64 [B, L].

    That captions are too long and were cut is logged for the first such batch only.

    Raises:
        MissingDependency: The tokenizer of the CLIP is not installed.
    """
    tokenize = clip.tokenizer()

    def batch(samples: Sequence[tuple[Any, str]]) -> tuple[Tensor, Tensor]:
        ids = tokenize([text for _, text in samples])
        tokenize.warns = tokenize.num_cut == 0
        return torch.stack([medium for medium, _ in samples]), ids

    return batch


def pairs(captions: Captions, preprocess: Callable[[Any], Any], training: bool = True) -> CaptionPairs:
    """Return the dataset of (preprocessed medium, caption); see `CaptionPairs`."""
    return CaptionPairs(captions, preprocess, training=training)
