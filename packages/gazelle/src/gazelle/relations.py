"""What the looks of the people in a picture say about each other: who looks at whom.

    people = relate(looks)
    people[0].looks_at, people[0].mutual        # numbers of people, or None

A person looks at another one if the point is in the box of the other one's head. If it is in several, the smallest
counts. Nobody who looks out of the picture looks at anybody in it.

**Looks into the camera** is not something that Gaze-LLE tells: for the model that is one of the ways to look out of the
picture. `Person.looks_at_camera` is a rule of thumb, which has not been validated: the model is rather sure that the
target is outside, and still the highest value of its heatmap is on the person's own head.

Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gazelle.estimation import Look

THRESHOLD = 0.5
"""The probability from which a target is taken to be inside the picture."""


@dataclass(frozen=True)
class Person:
    """A person in a picture, where this person looks, and at whom.

    Attributes:
        id: The number of the person, from 1.
        look: Where the person looks.
        detector_score: How sure the detector is that there is a person. None if the box is from elsewhere.
        looks_inside: Whether the target is inside the picture. None for a model that does not tell.
        looks_at: The number of the person whose head is looked at, or None.
        mutual: The same number if that person looks back, or None.
        looks_at_camera: See `gazelle.relations`. None for a person without a box, and for a model that does not tell
            whether the target is inside.
    """

    id: int
    look: Look
    detector_score: float | None = None
    looks_inside: bool | None = None
    looks_at: int | None = None
    mutual: int | None = None
    looks_at_camera: bool | None = None


def relate(
    looks: Sequence[Look],
    ids: Sequence[int] | None = None,
    scores: Sequence[float | None] | None = None,
    threshold: float = THRESHOLD,
) -> list[Person]:
    """Return the people of a picture with whom they look at.

    Args:
        looks: Where each person looks.
        ids: Their numbers. None counts from 1.
        scores: How sure the detector is of each, or None where the box is from elsewhere. None if all are.
        threshold: The probability from which a target is taken to be inside the picture.
    """
    numbers = range(1, len(looks) + 1) if ids is None else ids
    inside = [looks_inside(look, threshold) for look in looks]
    targets = [_target(looks, i) if inside[i] is not False else None for i in range(len(looks))]
    return [
        Person(
            id=numbers[i],
            look=look,
            detector_score=None if scores is None else scores[i],
            looks_inside=inside[i],
            looks_at=None if (target := targets[i]) is None else numbers[target],
            mutual=None if target is None or targets[target] != i else numbers[target],
            looks_at_camera=None if inside[i] is None or look.box is None else not inside[i] and _holds(look, look),
        )
        for i, look in enumerate(looks)
    ]


def looks_inside(look: Look, threshold: float = THRESHOLD) -> bool | None:
    """Return whether a target is inside the picture, or None if the model does not tell."""
    return None if look.inside is None else look.inside >= threshold


def _target(looks: Sequence[Look], viewer: int) -> int | None:
    """Return the place of the person whose head a person looks at."""
    heads = [i for i, look in enumerate(looks) if i != viewer and _holds(look, looks[viewer])]
    return min(heads, key=lambda i: _area(looks[i]), default=None)


def _holds(head: Look, look: Look) -> bool:
    """Return whether the box of a head holds the point of a look."""
    if head.box is None:
        return False
    x0, y0, x1, y1 = head.box
    return x0 <= look.point[0] <= x1 and y0 <= look.point[1] <= y1


def _area(look: Look) -> float:
    x0, y0, x1, y1 = look.box or (0, 0, 0, 0)
    return (x1 - x0) * (y1 - y0)
