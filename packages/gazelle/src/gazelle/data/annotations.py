"""The form in which every reader gives a dataset of gaze."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from plm_core import InputError
from plm_core.utils.images import open_image
from plm_core.utils.ranges import whole

Box = tuple[float, float, float, float]
Point = tuple[float, float]
OUTSIDE: Point = (-1.0, -1.0)
"""The gaze point of a target that is outside of the picture."""


@dataclass(frozen=True, slots=True)
class Person:
    """One person in a picture."""

    box: Box
    """The head (x0, y0, x1, y1) in fractions of the picture, from 0 to 1 and in order. It may be empty."""
    gaze: tuple[Point, ...]
    """The point looked at (x, y) in fractions, by each annotator; one annotator, except in GazeFollow's test split."""
    inout: int | None
    """1 if the target is inside the picture, 0 if it is outside, None if nobody has said it."""
    head_id: str
    """The person in the picture, and in VAT and ChildPlay the same one in all frames of a clip."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture and the people in it who are annotated."""

    path: Path
    width: int
    """The width in pixels as stored, before EXIF data turn the picture: the annotations refer to that."""
    height: int
    people: tuple[Person, ...]
    clip: str = ""
    """The clip that the picture is a frame of; empty for a photo."""

    def image(self) -> Image.Image:
        """Return the picture as stored, decoded by the rule of `plm_core.utils.images`.

        Raises:
            InputError: It cannot be read. The message names it.
        """
        return open_image(self.path, upright=False)


@dataclass(frozen=True)
class Annotations:
    """A dataset of gaze, or one split of it. `len` counts its pictures. The frames of a clip follow one another."""

    source: str
    scenes: Sequence[Scene]
    left_out: tuple[str, ...] = ()
    """The places of the broken rows that were left out."""
    dropped: Mapping[str, int] = field(default_factory=Counter)
    """The number of rows that the rules of the dataset leave out, by the reason."""

    def __post_init__(self) -> None:
        if not self.scenes:
            raise InputError(f"data {self.source!r} has no person whose gaze can be used")

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def people(self) -> int:
        """The number of people in all pictures."""
        return sum(len(scene.people) for scene in self.scenes)

    def every(self, step: int) -> Annotations:
        """Return frames 0, step, 2 * step ... of each clip, and every photo. VAT's training takes every 6th frame.

        Raises:
            InputError: The step is not a whole number, 1 or more.
        """
        if not whole(step):
            raise InputError(f"step is {step!r}; a whole number of frames, 1 or more, is expected")
        seen: Counter[str] = Counter()
        kept = []
        for scene in self.scenes:
            if not scene.clip or seen[scene.clip] % step == 0:
                kept.append(scene)
            seen[scene.clip] += 1
        return replace(self, scenes=tuple(kept))
