"""Datasets for torch: one person per sample to train on, and one picture per sample to evaluate on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gazelle import targets
from gazelle.data.annotations import OUTSIDE, Annotations, Box, Person, Scene
from gazelle.data.augmentation import augment
from plm_core import InputError

Preprocess = Callable[[Image.Image], Tensor]
Sample = dict[str, Any]


class PersonSamples(Dataset[Sample]):
    """A dataset of the people in pictures, one per sample.

    A sample has ``image`` float [3, h, w]; ``box``, the head in fractions of it; ``gaze`` float32 [2], (-1, -1) for a
    target outside; ``inout`` float32 [], 1 for a target inside and 0 for one outside; and ``heatmap``, the target map
    float32 [rows, columns], zero for a target outside. Of several annotators, the first one counts. People of whom
    nobody has said where the target is are left out.

    Args:
        annotations: The pictures and the people.
        preprocess: Function from a PIL image of any mode to what a model takes, such as `gazelle.preprocess`.
        size: Rows and columns of the target map, those of the model's output.
        augmented: Whether samples are augmented, see `gazelle.data.augment`. The draws are seeded by torch's generator,
            so in `plm_core.training.fit` they are a function of the seed, the epoch and the index, whichever process
            loads the sample.
        inside_only: Whether only people are taken whose target is inside, as the training on GazeFollow does.

    Raises:
        InputError: Nobody is left. On indexing: a picture cannot be read; the message names it.
    """

    def __init__(
        self,
        annotations: Annotations,
        preprocess: Preprocess,
        size: tuple[int, int] = (64, 64),
        *,
        augmented: bool = False,
        inside_only: bool = False,
    ) -> None:
        self.preprocess, self.size, self.augmented = preprocess, size, augmented
        wanted = (1,) if inside_only else (0, 1)
        self.people = [
            (scene, person) for scene in annotations.scenes for person in scene.people if person.inout in wanted
        ]
        if not self.people:
            where = "inside the picture" if inside_only else "known"
            raise InputError(f"data {annotations.source!r} has no person whose target is {where}")

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, index: int) -> Sample:
        scene, person = self.people[index]
        inside = person.inout == 1
        image, box, gaze = scene.image(), person.box, person.gaze[0] if inside else OUTSIDE
        if self.augmented:
            rng = np.random.default_rng(int(torch.randint(2**63 - 1, ())))
            image, box, gaze = augment(image, box, gaze, inside, rng)
        return {
            "image": self.preprocess(image),
            "box": box,
            "gaze": torch.tensor(gaze),
            "inout": torch.tensor(float(inside)),
            "heatmap": targets.heatmap(*gaze, *self.size),
        }


class SceneSamples(Dataset[tuple[Tensor, Scene]]):
    """A dataset of pictures with all people that are annotated, each as (image, scene).

    Args:
        annotations: The pictures and the people.
        preprocess: As for `PersonSamples`.

    Raises:
        InputError: On indexing: a picture cannot be read; the message names it.
    """

    def __init__(self, annotations: Annotations, preprocess: Preprocess) -> None:
        self.scenes, self.preprocess = annotations.scenes, preprocess

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, Scene]:
        scene = self.scenes[index]
        return self.preprocess(scene.image()), scene


def collate_people(samples: Sequence[Sample]) -> dict[str, Any]:
    """Collate samples of `PersonSamples`.

    Returns:
        ``images`` [B, 3, h, w]; ``boxes``, for each image a list of its one box; ``gaze`` [B, 2]; ``inout`` [B]; and
        ``heatmaps`` [B, rows, columns].
    """
    boxes: list[list[Box]] = [[sample["box"]] for sample in samples]
    stacked = {name: torch.stack([s[name] for s in samples]) for name in ("image", "gaze", "inout", "heatmap")}
    return {
        "images": stacked["image"],
        "boxes": boxes,
        "gaze": stacked["gaze"],
        "inout": stacked["inout"],
        "heatmaps": stacked["heatmap"],
    }


def collate_scenes(samples: Sequence[tuple[Tensor, Scene]]) -> dict[str, Any]:
    """Collate samples of `SceneSamples`.

    Returns:
        ``images`` [B, 3, h, w]; ``boxes``, for each image the list of its people's boxes; ``people``, all people in
        this order [P]; and ``sizes``, the (height, width) of each person's picture in pixels [P].
    """
    people: list[Person] = [person for _, scene in samples for person in scene.people]
    return {
        "images": torch.stack([image for image, _ in samples]),
        "boxes": [[person.box for person in scene.people] for _, scene in samples],
        "people": people,
        "sizes": [(scene.height, scene.width) for _, scene in samples for _ in scene.people],
    }
