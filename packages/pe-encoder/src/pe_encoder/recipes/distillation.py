"""The recipe ``pe-distill``: a small CLIP learns the matches of a large one (arXiv 2504.13181, section 2.4).

The student sees in a batch which captions the teacher finds for an image, and which images for a caption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from pe_encoder.clip import CLIP
from pe_encoder.recipes import losses
from pe_encoder.recipes.contrastive import fit_towers, train_and_score
from pe_encoder.recipes.pairs import collate, create_clip, open_splits, pairs
from pe_encoder.recipes.tables import DistillConfig
from pe_encoder.recipes.towers import Towers
from plm_core import InputError, create_model, transform_for
from plm_core.runs import Job, Trained
from plm_core.training import TrainResult


class BothInputs:
    """A function from an image to the student's input and the teacher's, which may have another size.

    Args:
        student: Preprocessing of the student.
        teacher: Preprocessing of the teacher.
    """

    def __init__(self, student: Callable[[Any], Tensor], teacher: Callable[[Any], Tensor]) -> None:
        self.student = student
        self.teacher = teacher

    def __call__(self, image: Any) -> tuple[Tensor, Tensor]:
        """Preprocess an image twice."""
        return self.student(image), self.teacher(image)


def train_distilled(
    clip: CLIP, data: Dataset[Any], config: DistillConfig, teacher: CLIP, **options: Any
) -> TrainResult:
    """Train a CLIP in place to match images and captions as a teacher does, over the batch of all processes.

    Args:
        clip: The student.
        data: A dataset of ((image for the student, image for the teacher), caption), both preprocessed.
        config: The settings. Its ``teacher`` is not looked at.
        teacher: The teacher, which may have another width, another size of images and another vocabulary.
        **options: Keywords of `plm_core.training.fit`. The model that ``evaluate`` gets is a
            `pe_encoder.recipes.towers.Towers`.

    Returns:
        The result of `fit`, with the state dict of the student.
    """
    teacher.requires_grad_(False).eval()
    options.setdefault("collate", _collate(clip, teacher))

    def loss(model: nn.Module, batch: Any) -> Tensor:
        images, ids, for_teacher, teacher_ids = batch
        teacher.to(images.device)
        with torch.no_grad():
            matches = teacher.encode_image(for_teacher, True), teacher.encode_text(teacher_ids, True)
        outputs = model(images, ids)
        return losses.divergence((outputs.media, outputs.texts), outputs.scale, matches, config.teacher_scale)

    towers = Towers(clip, config.max_scale, chunk_size=config.chunk_size)
    return fit_towers(clip, towers, data, loss, config.recipe, **options)


def _collate(clip: CLIP, teacher: CLIP) -> Callable[[Sequence[tuple[Any, str]]], tuple[Tensor, ...]]:
    """Return the function from samples to the images and ids of the student, and those of the teacher."""
    ours, theirs = collate(clip), collate(teacher)

    def batch(samples: Sequence[tuple[Any, str]]) -> tuple[Tensor, ...]:
        student = ours([(both[0], text) for both, text in samples])
        return *student, *theirs([(both[1], text) for both, text in samples])

    return batch


def run(job: Job) -> Trained | None:
    """Train a CLIP to match as a teacher does, as ``plm train pe-distill`` does."""
    splits, found = open_splits(job, "images")
    config: DistillConfig = job.config_for(len(splits.train))
    teacher = create_model(config.teacher, pretrained=True)
    if not isinstance(teacher, CLIP):
        raise InputError(f"teacher {config.teacher!r} is a {type(teacher).__name__}; a CLIP is needed")
    clip = create_clip(job, drop_path_rate=config.drop_path)
    ours = transform_for(clip)
    train = pairs(splits.train, BothInputs(ours, transform_for(teacher)))
    val = pairs(splits.val, ours, training=False)
    training = partial(train_distilled, config=config, teacher=teacher)
    return train_and_score(job, clip, train, val, training, splits.name, found)
