"""The datasets of pictures and clips that come with questions, and the score of guessing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from plm_core.shapes import graph
from plm_core.shapes.questions.asking import Question, article
from plm_core.shapes.questions.clips import CLIP_KINDS, ask_clip
from plm_core.shapes.questions.pictures import PICTURE_KINDS, ask_picture
from plm_core.shapes.questions.stories import sample_stories
from plm_core.shapes.scenes import Clip, Scene, render_clip, render_scene
from plm_core.shapes.world import World, check_choice, check_whole


@dataclass(frozen=True, eq=False)
class AskedScene(Scene):
    """One picture with questions.

    Attributes:
        image: Red, green and blue levels, uint8 [H, W, 3].
        caption: A description, as in `Scene`.
        objects: The objects. None hides a part of another, and no two have both the same shape and the same colour.
        questions: The questions, at most one of each kind and at least one.
    """

    questions: tuple[Question, ...]


@dataclass(frozen=True, eq=False)
class AskedClip(Clip):
    """One clip with questions.

    Attributes:
        frames: Red, green and blue levels, uint8 [T, H, W, 3], without the boxes that point at objects.
        caption: A description, for example "a red circle moves left, then grows while a blue star spins".
        objects: The objects, as in `Clip`.
        events: The motions, by object and then by time. Each object has one to three, and each lasts at least two
            frames. An object holds its pose from the last frame of a motion to the first of the next.
        questions: The questions, at most one of each kind and at least one; of ``fgqa`` one group of one to three.
    """

    questions: tuple[Question, ...]


@dataclass(frozen=True)
class ImageQuestions(World[AskedScene]):
    """A sequence of still scenes with questions. Each `AskedScene` is drawn when it is indexed.

    In every second scene all objects have one of two colours, so that their number and their differences matter.

    Args:
        split: "train" or "heldout".
        size: Height and width in pixels, at least 32; below 48, small shapes are hard to tell apart.
        count: Number of scenes, at least 1.
        seed: Random seed, at least 0.
        objects: Smallest and largest number of objects in a scene, from 1 to 4.
        background: "plain" (one grey), "gradient" (two greys and grain) or "clutter" (faint strokes as well).
        kinds: The kinds of questions, from `PICTURE_KINDS`. A scene lacks those that it has no clear answer to.

    Raises:
        ValueError: An argument is out of range. The message names it.
        IndexError: The index is out of range.
    """

    _: KW_ONLY
    objects: tuple[int, int] = (1, 4)
    kinds: tuple[str, ...] = tuple(PICTURE_KINDS)

    stream = 4
    most = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_kinds(self.kinds, tuple(PICTURE_KINDS))
        if self.objects[1] == 1 and set(self.kinds) <= {"relation", "comparison"}:
            raise ValueError(f"objects must allow two or more for the kinds {', '.join(map(repr, self.kinds))}")

    def _make(self, rng: np.random.Generator) -> AskedScene:
        while True:
            sprites = graph.sample_apart(rng, self.size, self.objects)
            scene = render_scene(rng, self.size, self.background, sprites)
            if questions := ask_picture(rng, scene, self.kinds):
                return AskedScene(**vars(scene), questions=questions)


@dataclass(frozen=True)
class ClipQuestions(World[AskedClip]):
    """A sequence of moving scenes with questions. Each `AskedClip` is drawn when it is indexed.

    Args:
        split: "train" or "heldout".
        size: Height and width in pixels, at least 32; below 48, small shapes are hard to tell apart.
        frames: Frames in a clip, from 4 to 32.
        count: Number of clips, at least 1.
        seed: Random seed, at least 0.
        objects: Smallest and largest number of objects in a clip, from 1 to 3.
        background: "plain" (one grey), "gradient" (two greys and grain) or "clutter" (faint strokes as well).
        kinds: The kinds of questions, from `CLIP_KINDS`. A clip lacks those that it has no clear answer to.

    Raises:
        ValueError: An argument is out of range. The message names it.
        IndexError: The index is out of range.
    """

    _: KW_ONLY
    objects: tuple[int, int] = (1, 2)
    frames: int = 8
    kinds: tuple[str, ...] = tuple(CLIP_KINDS)

    stream = 5
    most = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("frames", self.frames, 4, 32)
        _check_kinds(self.kinds, tuple(CLIP_KINDS))

    def _make(self, rng: np.random.Generator) -> AskedClip:
        while True:
            stories = sample_stories(rng, self.size, self.frames, self.objects)
            clauses = [f"{article(s.sprite.colour)} {s.sprite.shape} {s.words}" for s in stories]
            caption = graph.describe_clauses(clauses)
            clip = render_clip(rng, self.size, self.frames, self.background, stories, caption)
            if questions := ask_clip(rng, clip, self.kinds):
                return AskedClip(**vars(clip), questions=questions)


def majority_scores(questions: Iterable[Question]) -> dict[str, float]:
    """Return the share of questions of each kind that the most frequent reply is right for.

    A model that sees no picture can learn this much. With options the reply is the letter.

        >>> from plm_core.shapes.questions import ImageQuestions
        >>> scenes = ImageQuestions("heldout", size=48, count=400, kinds=("relation", "colour"))
        >>> {kind: round(score, 1) for kind, score in majority_scores(q for s in scenes for q in s.questions).items()}
        {'relation': 0.5, 'colour': 0.1}
    """
    replies: dict[str, Counter[str]] = {}
    for question in questions:
        replies.setdefault(question.kind, Counter())[question.reply] += 1
    return {kind: max(counts.values()) / counts.total() for kind, counts in replies.items()}


def _check_kinds(kinds: Any, allowed: tuple[str, ...]) -> None:
    if not isinstance(kinds, tuple | list) or not kinds:
        raise ValueError(f"kinds must be one or more of {', '.join(map(repr, allowed))}, not {kinds!r}")
    for kind in kinds:
        check_choice("kinds", kind, allowed)
